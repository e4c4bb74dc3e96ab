"""Trains each case on one device and on two logical CPU devices, and saves the weights.

python mirrored.py OUT.npz
"""

import contextlib
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_layerwise import LayerwiseOptimizer, Rule, WeightDrift

DRIFT = ("step", "l2", "relative_l2", "cosine", "mean_shift", "std_shift", "max_abs", "norm")
RULES = {
    "body/bias": Rule(learning_rate=0.05),
    "body": Rule(multiplier=0.1, weight_decay=0.9),
    "head/bias": Rule(frozen=True),
}
optimizers = keras.optimizers


class Changing(keras.callbacks.Callback):
    """Changes multipliers and what is frozen, before and in the middle of an epoch."""

    def on_train_begin(self, logs=None):
        self.model.optimizer.attach(self.model)

    def on_train_batch_end(self, batch, logs=None):
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        changes = {
            3: lambda o: o.set_multiplier("body/kernel", 0.7),
            5: lambda o: (o.freeze("head/kernel"), o.unfreeze("head/bias")),
            10: lambda o: o.unfreeze("head/kernel"),
        }
        changes.get(step, lambda _: None)(self.model.optimizer)


def case(inner, rules=RULES, callbacks=(), wrap=None, layerwise=True):
    return inner, rules, callbacks, wrap, layerwise


DRIFTS = "momentum, decay and schedules"  # the case whose drift is written too
ema = {"use_ema": True, "ema_momentum": 0.5}
CASES = {
    "RMSprop": case(lambda: optimizers.RMSprop(0.02)),
    "Adagrad under a loss scale": case(
        lambda: optimizers.Adagrad(0.1),
        wrap=lambda inner: optimizers.LossScaleOptimizer(inner, initial_scale=1024.0),
    ),
    # The head's bias joins at a step, is pulled to what it was then, and is averaged from there.
    "AdamW, decay to initial, an average and changes": case(
        lambda: optimizers.AdamW(0.02, weight_decay=0.9, **ema),
        rules={
            "body/bias": Rule(learning_rate=0.05),
            "body": Rule(multiplier=0.5, weight_decay=5.0, decay_to="initial"),
            "head/bias": Rule(frozen=True),
            "*": Rule(decay_to="initial"),
        },
        callbacks=[Changing()],
    ),
    DRIFTS: case(
        lambda: optimizers.SGD(
            optimizers.schedules.ExponentialDecay(0.1, 4, 0.5), momentum=0.9, weight_decay=0.3
        ),
        rules={
            **RULES,
            "body": Rule(multiplier=optimizers.schedules.PiecewiseConstantDecay([4], [1.0, 0.1])),
        },
    ),
}


# Keras clips in each replica before the sum, so these are compared with the bare optimizer.
CLIPS = {
    "clipnorm": {"clipnorm": 0.1},
    "global_clipnorm": {"global_clipnorm": 0.1},
    "clipvalue": {"clipvalue": 0.01},
}
# What Keras's own optimizers do not do under this strategy.
REFUSED = {
    "accumulation": lambda: optimizers.SGD(0.1, gradient_accumulation_steps=2),
    "average written back": lambda: optimizers.SGD(0.1, ema_overwrite_frequency=3, **ema),
}


def train(inner, rules, callbacks, wrap, layerwise, devices="two"):
    """Trains on the devices of the scope; on one it takes no time to trace, nor kernels of ours."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="body", activation="tanh"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    optimizer = inner()
    if layerwise:
        optimizer = LayerwiseOptimizer(optimizer, rules, model=model, fused=devices == "two")
    optimizer = wrap(optimizer) if wrap else optimizer
    model.compile(optimizer, "mse", run_eagerly=devices == "one")
    x = rng.normal(size=(24, 3)).astype("float32")
    y = rng.normal(size=(24, 2)).astype("float32")
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    return model


def clipped(strategy, inner, rules=None):
    """Gives the weights after each replica has applied gradients of its own."""
    rng = np.random.default_rng(0)
    with strategy.scope():
        weights = [keras.Variable(rng.normal(size=shape)) for shape in ((3, 4), (4,))]
        optimizer = inner() if rules is None else LayerwiseOptimizer(inner(), rules)
        optimizer.build(weights)

    @tf.function
    def step(gradients):
        def replica():
            mine = tf.distribute.get_replica_context().replica_id_in_sync_group
            optimizer.apply([tf.gather(each, mine) for each in gradients], weights)

        strategy.run(replica)

    for _ in range(12):
        step([tf.constant(rng.normal(size=(2, *w.shape)), "float32") for w in weights])
    return [keras.ops.convert_to_numpy(weight) for weight in weights]


class FreezingLater(keras.callbacks.Callback):
    """Freezes the body in mid-run, and keeps what its averages are then."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            self.model.optimizer.freeze("body")
            self.averages = averages(self.model)


def averages(model):
    return [keras.ops.convert_to_numpy(w) for w in model.get_layer("body").non_trainable_weights]


def train_with_averages(how):
    """Trains a body with a normalisation in it, which is frozen by rule, by flag or later."""
    keras.utils.set_random_seed(3)
    inside = [keras.layers.Dense(4, name="d"), keras.layers.BatchNormalization(name="n")]
    body = keras.Sequential([keras.Input((3,)), *inside], name="body")
    model = keras.Sequential([keras.Input((3,)), body, keras.layers.Dense(2, name="head")])
    body.trainable = how != "flag"
    rules = {"body": Rule(frozen=True)} if how == "rule" else None
    inner = optimizers.SGD(0.1, momentum=0.9)
    model.compile(inner if how == "flag" else LayerwiseOptimizer(inner, rules, fused=False), "mse")
    x = np.linspace(-1, 2, 72, dtype="float32").reshape(24, 3)
    callback = FreezingLater()
    callbacks = [callback] if how == "later" else []
    model.fit(x, x[:, :2], batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)
    return model, callback


def main(out, folder):
    results = {}
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name, (inner, rules, callbacks, wrap, layerwise) in CASES.items():
        for devices in ("one", "two"):
            keras.utils.clear_session(free_memory=False)
            drift = [WeightDrift(folder / devices, update_freq=3)] if name == DRIFTS else []
            with two.scope() if devices == "two" else contextlib.nullcontext():
                model = train(inner, rules, [*callbacks, *drift], wrap, layerwise, devices)
            if drift:
                history = drift[0].history
                results |= {f"drift/{devices}/{key}": history[key] for key in DRIFT}
            for i, weight in enumerate(model.weights):
                results[f"{name}/{devices}/{i}"] = keras.ops.convert_to_numpy(weight)
                if devices == "two":
                    values = [value.numpy() for value in weight.value.values]
                    np.testing.assert_array_equal(*values, err_msg=f"{name}: replicas differ")
            steps = keras.ops.convert_to_numpy(model.optimizer.iterations)
            results[f"{name}/{devices}/steps"] = steps
    for name, clip in CLIPS.items():
        for rate, rules in ((0.1, {}), (0.01, {"*": 0.1})):
            found = {
                "layerwise": clipped(two, lambda: optimizers.SGD(0.1, **clip), rules),  # noqa: B023
                "bare": clipped(two, lambda: optimizers.SGD(rate, **clip)),  # noqa: B023
            }
            results |= {
                f"{name}/{rate}/{kind}/{i}": weight
                for kind, weights in found.items()
                for i, weight in enumerate(weights)
            }
    for how in ("rule", "flag", "later"):
        keras.utils.clear_session(free_memory=False)
        with two.scope():
            model, callback = train_with_averages(how)
        for i, weight in enumerate(model.weights):
            results[f"frozen/{how}/{i}"] = keras.ops.convert_to_numpy(weight)
        if how == "later":
            results["frozen/when"], results["frozen/end"] = callback.averages, averages(model)
    for name, inner in REFUSED.items():
        for kind in ("bare", "layerwise"):
            try:
                with two.scope():
                    train(*case(inner, layerwise=kind == "layerwise"))
            except RuntimeError as error:
                results[f"{name}/{kind}"] = str(error)
    np.savez(out, **results)


if __name__ == "__main__":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    main(sys.argv[1], Path(sys.argv[1]).parent)
