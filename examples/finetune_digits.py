"""Teaches a network five new digits from few examples, and asks what it still knows.

A small convolutional network with ten outputs learns the handwritten digits 0
to 4 that scikit-learn ships. Then it learns 5 to 9 from ten examples of each,
in several ways, and is asked about both: what it learned and what it kept.

    python examples/finetune_digits.py --seeds 5
"""

import argparse
import contextlib
import logging
import os
import time
from pathlib import Path

import matplotlib.figure
import numpy as np
import rich.box
import scipy.stats
from rich.console import Console
from rich.table import Table
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

    keras.ops.ones(1)  # the first operation looks for devices

# Every way has a model of its own, and TensorFlow warns of each trace.
logging.getLogger("tensorflow").setLevel(logging.ERROR)

EXAMPLES = 10  # of each new digit to learn from
CHOSEN_WITH = 20  # of each digit to choose α with; the others, 130 or so, are the test
PASSES = 4  # over the examples in an epoch: what is done once an epoch takes longer than they do
RATE = 3e-3
PULL = 3.0  # λ of the decay towards the pretrained weights
ALPHAS = np.linspace(0, 1, 11)
INTERPOLATED = "interpolated, best α"


def load(seed):
    """Splits the digits: 0 to 4 to begin with, few of 5 to 9, and both to choose and to test."""
    images, digits = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    order = np.random.default_rng(seed).permutation(len(digits))
    parts = {name: [] for name in ("old", "new", "choose", "test")}
    for digit in range(10):
        mine = order[digits[order] == digit]
        size = len(mine) // 2 if digit < 5 else EXAMPLES
        parts["old" if digit < 5 else "new"].extend(mine[:size])
        parts["choose"].extend(mine[size : size + CHOSEN_WITH])
        parts["test"].extend(mine[size + CHOSEN_WITH :])
    return {name: (images[found], digits[found]) for name, found in parts.items()}


def build():
    """A classifier of ten digits, always with the same weights for a seed."""
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, activation="relu", padding="same", name="conv_1"),
        keras.layers.BatchNormalization(momentum=0.8, name="norm_1"),
        keras.layers.Conv2D(32, 3, activation="relu", padding="same", name="conv_2"),
        keras.layers.BatchNormalization(momentum=0.8, name="norm_2"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(64, 3, activation="relu", name="conv_3"),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu", name="dense"),
        keras.layers.Dense(10, name="head"),
    ]
    return keras.Sequential(layers, name="digits")


def compiled(model, rules=None):
    """Compiles `model` with `rules` around Adam."""
    model.compile(
        kl.LayerwiseOptimizer(keras.optimizers.Adam(RATE), rules),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def pretrained(data, epochs):
    """Returns the weights of a network that has learned `data`."""
    model = compiled(build())
    model.fit(*data, epochs=epochs, verbose=0)
    return model.get_weights()


def ways(model, epochs):
    """For each way its rules, and the callbacks that belong to it."""
    body = kl.Rule(frozen=True)
    layers = ["dense", "conv_3", ["conv_2", "norm_2"], ["conv_1", "norm_1"]]
    frozen = {name: body for layer in layers for name in np.atleast_1d(layer)}
    plan = {(i + 1) * epochs // 5: layer for i, layer in enumerate(layers)}
    return {
        "one rate for all": (None, []),
        "head only": (frozen, []),
        "layer decay": (kl.layer_decay(model, 0.5), []),
        "gradual unfreezing": (frozen, [kl.GradualUnfreeze(plan)]),
        "decay to pretrained": ({"*": kl.Rule(weight_decay=PULL, decay_to="initial")}, []),
    }


def accuracies(model, images, digits):
    """The shares of the old digits kept and of the new ones learned."""
    # Called as it is: to compile `predict` for each way would take longer than to answer.
    right = keras.ops.convert_to_numpy(model(images, training=False)).argmax(-1) == digits
    return {"kept": right[digits < 5].mean(), "learned": right[digits > 4].mean()}


class Asked(keras.callbacks.Callback):
    """Adds what the model keeps and learns to the logs of an epoch."""

    observes_only = True

    def __init__(self, data, every):
        super().__init__()
        self.data, self.every = data, every

    def on_epoch_end(self, epoch, logs=None):
        """Asks at some epochs, and at the last."""
        if (epoch + 1) % self.every == 0:
            logs.update(accuracies(self.model, *self.data))


def finetune(way, weights, data, seed, epochs, log_dir):
    """Returns the model after learning the new digits in one way, its drift and the seconds."""
    keras.utils.set_random_seed(seed)
    model = build()
    model.set_weights(weights)
    rules, callbacks = ways(model, epochs)[way]
    compiled(model, rules)
    asked = Asked(data["test"], max(epochs // 4, 1))
    drift = kl.WeightDrift(log_dir, metrics=["kept", "learned"])
    record = kl.FreezeHyperparameters(log_dir, {"way": way, "seed": seed, "examples": EXAMPLES})
    start = time.perf_counter()
    model.fit(
        *(np.repeat(part, PASSES, axis=0) for part in data["new"]),
        batch_size=10,
        epochs=epochs,
        verbose=0,
        callbacks=[*callbacks, asked, drift, record, kl.LearningRateMonitor(log_dir)],
    )
    seconds = time.perf_counter() - start
    last = dict(zip(drift.history["layers"], drift.history["relative_l2"][-1], strict=True))
    moved = {name: d for name, d in last.items() if "non-trainable" not in name}
    return model, moved, seconds


def best_share(model, weights, data):
    """The α at which kept and learned are best together, on digits that are not tested."""
    curve = kl.interpolation_curve(
        model,
        weights,
        ALPHAS,
        lambda m: {"both": sum(accuracies(m, *data["choose"]).values())},
        verbose=0,
    )
    return curve.best("both")


def one_seed(seed, epochs, logs):
    """Runs every way once; returns for each what was kept and learned, drift and seconds."""
    keras.utils.set_random_seed(seed)
    data = load(seed)
    weights = pretrained(data["old"], epochs)
    found, chosen, top = {}, None, -1.0
    for way in ways(build(), epochs):
        log_dir = logs / f"seed-{seed}" / way.replace(" ", "_")
        model, moved, seconds = finetune(way, weights, data, seed, epochs, log_dir)
        scores = accuracies(model, *data["test"])
        found[way] = {**scores, "moved": moved, "seconds": seconds}
        print(
            f"  {way:22} kept {scores['kept']:.3f}, learned {scores['learned']:.3f}, "
            f"{seconds:.1f} s",
            flush=True,
        )
        together = sum(accuracies(model, *data["choose"]).values())
        if together > top:
            top, chosen = together, (model, way, moved, seconds)
    model, way, moved, seconds = chosen
    start = time.perf_counter()
    alpha = best_share(model, weights, data)
    with kl.interpolate(model, weights, alpha):
        scores = accuracies(model, *data["test"])
    seconds += time.perf_counter() - start
    # Every weight goes back by the same share, and so does its distance.
    moved = {layer: alpha * distance for layer, distance in moved.items()}
    found[INTERPOLATED] = {**scores, "moved": moved, "seconds": seconds}
    print(
        f"  {INTERPOLATED:22} kept {scores['kept']:.3f}, learned {scores['learned']:.3f} "
        f"({way}, α {alpha:.1f})",
        flush=True,
    )
    return found


def interval(values):
    """Mean and half the 95 % interval of the mean, by Student's t."""
    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def table(results):
    """Each way's mean over the seeds, with its 95 % interval."""
    layers = list(results[0]["head only"]["moved"])
    title = (
        f"Accuracy after {EXAMPLES} examples of each new digit, seeds: {len(results)}, ± 95 %;\n"
        "then how far each layer has moved: ‖w − w₀‖ / ‖w₀‖"
    )
    found = Table(title=title, box=rich.box.SQUARE, title_justify="left", title_style="")
    found.add_column("Way")
    for name in ("Learned 5-9", "Kept 0-4", *layers, "Seconds"):
        found.add_column(name, justify="right")
    for way in results[0]:
        runs = [result[way] for result in results]
        found.add_row(
            way,
            interval([run["learned"] for run in runs]),
            interval([run["kept"] for run in runs]),
            *(f"{np.mean([run['moved'][layer] for run in runs]):.3f}" for layer in layers),
            f"{np.mean([run['seconds'] for run in runs]):.1f}",
        )
    return found


def picture(results, path):
    """Draws what was learned against what was kept, a point for each run."""
    figure = matplotlib.figure.Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for way in results[0]:
        kept, learned = ([found[way][key] for found in results] for key in ("kept", "learned"))
        axes.scatter(kept, learned, label=way, alpha=0.7)
    axes.set_xlabel("kept: accuracy on 0 to 4")
    axes.set_ylabel("learned: accuracy on 5 to 9")
    axes.legend()
    figure.savefig(path, dpi=120)


def main():
    """Pretrains once a seed, fine-tunes in each way, and shows what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logdir", type=Path, help="default: a new directory in logs/")
    parser.add_argument("--seeds", type=int, default=5, help="how often each way is tried")
    parser.add_argument("--first-seed", type=int, default=0, help="the others follow it")
    parser.add_argument("--quick", action="store_true", help="few epochs: works, proves nothing")
    options = parser.parse_args()
    logs = options.logdir or Path("logs") / time.strftime("digits-%Y%m%d-%H%M%S")
    epochs = 5 if options.quick else 10

    results = []
    for i in range(options.seeds):
        print(f"seed {i + 1} of {options.seeds}", flush=True)
        results.append(one_seed(options.first_seed + i, epochs, logs))
    picture(results, logs / "learned-and-kept.png")
    print()
    Console(width=140).print(table(results))
    print()
    print(f"Learned against kept, a point a run:\n  {logs / 'learned-and-kept.png'}")
    print(f'Every run in TensorBoard, in the tab "Layerwise":\n  tensorboard --logdir {logs}')


if __name__ == "__main__":
    main()
