"""Writes what version 0.1 saved: a .keras file, weights, a checkpoint, log directories."""

import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import json

import keras
import numpy as np
import tensorflow as tf

import keras_layerwise as kl

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
keras.utils.set_random_seed(7)
L = keras.layers


def model():
    i = keras.Input((6,))
    x = L.Dense(4, activation="tanh", name="stem")(i)
    x = L.BatchNormalization(name="norm")(x)
    body = keras.Sequential(
        [keras.Input((4,)), L.Dense(4, name="a"), L.Dense(4, name="b")], name="body"
    )
    x = body(x)
    return keras.Model(i, L.Dense(2, name="head")(x), name="saved")


x = np.random.RandomState(0).rand(32, 6).astype("f4")
y = np.random.RandomState(1).rand(32, 2).astype("f4")
m = model()
rules = {
    "stem": kl.Rule(frozen=True, multiplier=0.1),
    "body/a": kl.Rule(multiplier=0.25, weight_decay=0.01),
    "body/b": kl.Rule(learning_rate=keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)),
    "*/bias": kl.Rule(multiplier=0.5),
}
rules = {"stem": rules["stem"], "body/a": rules["body/a"], "body/b": rules["body/b"], "norm": 0.5}
m.compile(
    kl.LayerwiseOptimizer(keras.optimizers.AdamW(1e-2, weight_decay=0.1), rules, model=m),
    loss="mse",
    metrics=["mae"],
)
logs = out / "run"
drift = kl.WeightDrift(
    logs, statistics=[*kl.WeightDrift.__init__.__kwdefaults__["statistics"], "update_ratio"]
)
record = kl.FreezeHyperparameters(
    logs, {"seed": 7, "note": "saved by 0.1"}
)  # before fit is looked up: 0.1 wraps it here
m.fit(
    x,
    y,
    epochs=3,
    batch_size=8,
    verbose=0,
    shuffle=False,
    callbacks=[record, drift, kl.LearningRateMonitor(logs), kl.GradualUnfreeze({2: "stem"})],
)
m.save(out / "model.keras")
m.save_weights(out / "model.weights.h5")
tf.train.Checkpoint(model=m, optimizer=m.optimizer).write(str(out / "checkpoint"))
ass = [vars(a) for a in m.optimizer.assignments]
h = drift.history
expected = {
    "assignments": ass,
    "weights": [w.tolist() for w in map(np.array, m.get_weights())],
    "iterations": int(m.optimizer.iterations),
    "record_fingerprint": kl.load_record(logs).fingerprint,
    "history": {k: (v.tolist() if hasattr(v, "tolist") else v) for k, v in h.items()},
}
m.fit(x, y, epochs=1, batch_size=8, verbose=0, shuffle=False)
expected["weights_after_another_epoch"] = [w.tolist() for w in map(np.array, m.get_weights())]
(out / "expected.json").write_text(json.dumps(expected, indent=0))
