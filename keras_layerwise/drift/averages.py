"""Estimates the moving averages of a model anew, as interpolated weights need them."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_layerwise.backend import arrays, internals
from keras_layerwise.backend.frozen_layers import frozen_in_calls
from keras_layerwise.model.structure import sites


def reestimate_averages(model: Any, data: Any, batch_size: int = 32) -> int:
    """Replaces the moving averages of `BatchNormalization` by those over `data`.

    Interpolated weights put out other means than either end; this gives each
    normalisation the plain average over the batches. Layers that do not train,
    by their flag or by a rule, keep theirs, as in training.

    Args:
        model: a built model.
        data: an array of inputs, or a mapping of names to arrays; or batches, as
            a dataset gives them: each the inputs, or a tuple of inputs and
            whatever follows.
        batch_size: rows of a batch, for arrays.

    Returns:
        How many layers were estimated anew.

    Raises:
        ValueError: where `model` has no such layer that trains, or `data` no batch.
            Whatever is raised, the averages stay as they were.

    Source: ``update_bn`` of Stochastic Weight Averaging, Izmailov et al. 2018,
    arXiv 1803.05407.

    Example:

    >>> import keras, numpy as np
    >>> norm = keras.layers.BatchNormalization()
    >>> model = keras.Sequential([keras.Input((1,)), norm])
    >>> reestimate_averages(model, np.array([[1.0], [3.0]]))
    1
    >>> float(norm.moving_mean[0])
    2.0
    """
    frozen = frozen_in_calls(model)
    layers = {
        id(layer): layer
        for site in sites(model)
        if isinstance(layer := site.layer, keras.layers.BatchNormalization)
        and layer.trainable
        and id(layer) not in frozen
    }
    if not layers:
        raise ValueError(f"{model.name!r} has no BatchNormalization that trains.")
    internals.sync_state(model)
    averages = [w for layer in layers.values() for w in (layer.moving_mean, layer.moving_variance)]
    before = [np.array(arrays.host(weight.value)) for weight in averages]
    momenta = [(layer, layer.momentum) for layer in layers.values()]
    count = 0
    try:
        for inputs in _batches(data, batch_size):
            # The share of the past that makes an exponential average a plain one.
            for layer in layers.values():
                layer.momentum = count / (count + 1)
            model(inputs, training=True)
            count += 1
    except BaseException:  # an average over a part of the data is worse than the one before
        for weight, value in zip(averages, before, strict=True):
            weight.assign(value)
        raise
    finally:
        for layer, momentum in momenta:
            layer.momentum = momentum
    if not count:
        raise ValueError("`data` has no batch; pass inputs to average over.")
    return len(layers)


def _batches(data: Any, size: int) -> Iterable[Any]:
    if hasattr(data, "shape") or isinstance(data, Mapping):
        parts = data if isinstance(data, Mapping) else {"": data}
        for start in range(0, max(map(len, parts.values()), default=0), size):
            batch = {name: part[start : start + size] for name, part in parts.items()}
            yield batch if isinstance(data, Mapping) else batch[""]
        return
    if isinstance(data, keras.utils.PyDataset):  # whose iterator need not end
        data = map(data.__getitem__, range(len(data)))
    for batch in data:
        yield keras.utils.unpack_x_y_sample_weight(batch)[0]
