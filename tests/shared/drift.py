"""A small model to fit, what `WeightDrift` wrote of it, and the formulas of its statistics."""

import json
import warnings
from pathlib import Path

import keras
import numpy as np
from keras import layers
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from keras_layerwise.storage import schema
from keras_layerwise.storage.schema import Series


def read(directory):
    """The records of all event files, as TensorBoard's own loader gives them."""
    files = sorted(Path(directory).glob("events.out.tfevents.*"))
    found = [event for file in files for event in EventFileLoader(str(file)).Load()]
    return [event for event in found if event.HasField("summary")]


def by_definition(w, r, previous=None, steps=1):
    """The formulas of DESIGN, in float64, for one concatenated layer."""
    w, r = w.astype(np.float64), r.astype(np.float64)
    norm, norm_r = np.sqrt((w * w).sum()), np.sqrt((r * r).sum())
    distance = np.sqrt(((w - r) ** 2).sum())
    found = {
        "l2": distance,
        "relative_l2": distance / norm_r if norm_r else np.nan,
        "cosine": (w * r).sum() / (norm * norm_r) if norm and norm_r else np.nan,
        "mean_shift": (w - r).mean(),
        "std_shift": w.std() - r.std(),
        "max_abs": np.abs(w - r).max(),
        "norm": norm,
        "nonfinite": (~np.isfinite(w)).sum(),
    }
    if previous is not None:
        p = previous.astype(np.float64)
        size = np.sqrt((p * p).sum())
        found["update_ratio"] = np.sqrt(((w - p) ** 2).sum()) / (size * steps) if size else np.nan
    return found


X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 2)).astype("float32")


def classifier(dtype=None):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, name="body", dtype=dtype),
            layers.BatchNormalization(name="norm", dtype=dtype),
            layers.Dense(2, name="head", dtype=dtype),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def fit(model, *callbacks, epochs=2, batch_size=8, **options):
    return model.fit(
        X, Y, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=list(callbacks), **options
    )


def host(variable):
    return np.array(keras.ops.convert_to_numpy(variable), dtype=np.float64)


def weights_of(model, *names):
    """The weights of layers, in order, flat."""
    found = [host(w).ravel() for name in names for w in model.get_layer(name).trainable_weights]
    return np.concatenate(found)


def series(directory):
    """Each vector series of a run: its plugin data, steps and values."""
    kinds, found = {}, {}
    for event in read(directory / schema.DRIFT_DIR):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == schema.PLUGIN:
                kinds[value.tag] = Series.parse(value.metadata.plugin_data.content)
            if value.tag in kinds:
                row = (event.step, tensor_util.make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append(row)
    return {tag: (kinds[tag], found[tag]) for tag in kinds}


def vectors(directory, statistic="l2"):
    """The series of one statistic, in the order they began."""
    return [found for found in series(directory).values() if found[0].statistic == statistic]


def messages(directory):
    return [
        json.loads(text)
        for tag, (_, rows) in series(directory).items()
        if tag == schema.ALARMS
        for _, texts in rows
        for text in texts
    ]


def alarms_of(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught if "ayer" in str(warning.message)]


class Push(keras.callbacks.Callback):
    """Moves a weight at the end of every batch, as a bug would."""

    def __init__(self, variable, value):
        super().__init__()
        self.variable, self.value = variable, value

    def on_epoch_begin(self, epoch, logs=None):
        if epoch:
            self.variable.assign(self.variable + self.value)
