"""Fine-tunes a small convolutional network on few digits, in four ways.

The network learns the handwritten digits 0 to 4 that scikit-learn ships. Then
its body gets a new head and learns 5 to 9 from few examples: with one rate for
all layers, with the head alone, with a rate that falls from the head down, and
with layers that join one after the other. Where a rule freezes the body, its batch
normalization keeps its averages, as with trainable = False.

    python examples/finetune_digits.py --seeds 5
"""

import argparse
import contextlib
import os
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


@contextlib.contextmanager
def no_log_lines():
    """Drops what TensorFlow writes to stderr while it starts, which no setting of it stops."""
    stderr = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


with no_log_lines():
    import keras

    import keras_layerwise as kl
    from keras_layerwise.tables import render

    keras.ops.ones(1)  # the first operation looks for devices

WAYS = ("one rate for all", "head only", "layer decay", "gradual unfreezing")
EXAMPLES = 10  # of each digit to fine-tune on; the other 170 or so are for the test
FROZEN = """\
Under "head only" the averages of norm stay, too: a layer that a rule freezes
computes what it did before."""


def load():
    """Images and labels of the digits 0 to 4, and of 5 to 9 counted from 0."""
    images, digits = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    low = digits < 5
    return (images[low], digits[low]), (images[~low], digits[~low] - 5)


def split(images, labels, seed):
    """A few random examples of each label to train on, and all others to test on."""
    order = np.random.default_rng(seed).permutation(len(labels))
    train = np.concatenate([order[labels[order] == label][:EXAMPLES] for label in range(5)])
    test = np.setdiff1d(order, train)
    return (images[train], labels[train]), (images[test], labels[test])


def new_body():
    """The layers that are trained first on 0 to 4 and then on 5 to 9."""
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, activation="relu", padding="same", name="conv_1"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Conv2D(32, 3, activation="relu", padding="same", name="conv_2"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(64, 3, activation="relu", name="conv_3"),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu", name="dense"),
    ]
    return keras.Sequential(layers, name="body")


def with_head(body):
    """A classifier of five digits on top of `body`."""
    return keras.Sequential([body, keras.layers.Dense(5, activation="softmax", name="head")])


def pretrain(data, epochs):
    """Returns the weights of a body that has learned `data`."""
    body = new_body()
    model = with_head(body)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(*data, epochs=epochs, verbose=0).history
    print(f"pretrained on 0 to 4: accuracy {history['accuracy'][-1]:.3f}", flush=True)
    return body.get_weights()


def rules_and_callbacks(way, model, epochs):
    """What makes each way what it is."""
    frozen_body = {"body": kl.Rule(frozen=True)}
    quarter = epochs // 4
    plan = {quarter: "dense", 2 * quarter: "conv_3", 3 * quarter: ["conv_1", "norm", "conv_2"]}
    return {
        "one rate for all": ({}, []),
        "head only": (frozen_body, []),
        "layer decay": (kl.layer_decay(model, 0.5), []),
        "gradual unfreezing": (frozen_body, [kl.GradualUnfreeze(plan)]),
    }[way]


def finetune(body_weights, way, seed, train, test, epochs, log_dir):
    """Returns the accuracy on `test`, how far each layer has moved, and the seconds taken."""
    keras.utils.set_random_seed(seed)
    body = new_body()
    body.set_weights(body_weights)
    model = with_head(body)

    rules, callbacks = rules_and_callbacks(way, model, epochs)
    optimizer = kl.LayerwiseOptimizer(keras.optimizers.Adam(3e-3), rules, model=model)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])

    drift = kl.WeightDrift(log_dir)
    hyperparameters = {"way": way, "seed": seed, "examples": EXAMPLES}
    start = time.perf_counter()
    history = model.fit(
        *train,
        batch_size=10,
        epochs=epochs,
        validation_data=test,
        validation_batch_size=len(test[0]),
        validation_freq=epochs,  # the last one is what is shown
        verbose=0,
        callbacks=[
            drift,
            kl.FreezeHyperparameters(log_dir, hyperparameters),
            kl.LearningRateMonitor(log_dir),
            *callbacks,
        ],
    ).history
    seconds = time.perf_counter() - start
    accuracy = history["val_accuracy"][-1]
    print(f"  {way:20} accuracy {accuracy:.3f}, {seconds:.1f} s", flush=True)
    moved = dict(zip(drift.history["layers"], drift.history["relative_l2"][-1], strict=True))
    return accuracy, moved, seconds


def table(results):
    """Each way's mean over the seeds."""
    rows = []
    for way, runs in results.items():
        accuracies, moved, seconds = zip(*runs, strict=True)
        layers = list(moved[0])
        rows.append(
            [
                way,
                f"{np.mean(accuracies):.3f} ± {np.std(accuracies):.3f}",
                *(f"{np.mean([drift[layer] for drift in moved]):.3f}" for layer in layers),
                f"{np.mean(seconds):.1f}",
            ]
        )
    names = [
        f"#{layer.removeprefix('body/').replace('(non-trainable)', 'averages')}" for layer in layers
    ]
    title = (
        f"Accuracy on 5 to 9 after {EXAMPLES} examples of each, seeds: {len(runs)}.\n"
        "How far each layer has moved: ‖w − w₀‖ / ‖w₀‖"
    )
    return render(title, ["Way", "#Accuracy", *names, "#Seconds"], rows)


def main():
    """Pretrains once a seed, fine-tunes in each way, and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logdir", type=Path, help="default: a new directory in logs/")
    parser.add_argument("--seeds", type=int, default=5, help="how often each way is tried")
    parser.add_argument("--quick", action="store_true", help="few epochs: works, proves nothing")
    options = parser.parse_args()
    logs = options.logdir or Path("logs") / time.strftime("digits-%Y%m%d-%H%M%S")
    epochs = 4 if options.quick else 40

    low, high = load()
    results = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        keras.utils.set_random_seed(seed)
        print(f"seed {seed + 1} of {options.seeds}: ", end="", flush=True)
        body_weights = pretrain(low, epochs // 4)
        train, test = split(*high, seed)
        for way in WAYS:
            log_dir = logs / f"seed-{seed}" / way.replace(" ", "_")
            results[way].append(finetune(body_weights, way, seed, train, test, epochs, log_dir))

    print(f"\n{table(results)}\n\n{FROZEN}\n")
    print(f'Every run in TensorBoard, in the tab "Layerwise":\n  tensorboard --logdir {logs}')


if __name__ == "__main__":
    main()
