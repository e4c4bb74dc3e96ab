"""Fingerprints of weights: SHA-256 of their bytes."""

import hashlib
import sys
from typing import Any

import keras
import numpy as np

from keras_layerwise.backend import arrays
from keras_layerwise.model import structure
from keras_layerwise.storage.values import UNKNOWN


def weights_fingerprint(model: Any) -> str:
    """Gives the SHA-256 of every weight's dtype, shape and bytes, in the model's order.

    The same for equal weights on every backend, and after save and reload;
    ``"unknown"`` where other processes hold parts of the weights, or there are none yet.
    """
    if not model.built:
        return UNKNOWN
    digest = hashlib.sha256()
    for site in structure.sites(model):
        value = site.weight.value
        if not (getattr(value, "is_fully_addressable", True) or value.is_fully_replicated):
            return UNKNOWN
        # NumPy's way to copy a TensorFlow variable takes ten times as long as to hash it.
        value = np.ascontiguousarray(arrays.view(site.weight))
        little = value if sys.byteorder == "little" else value.byteswap()
        shape = ",".join(str(size) for size in value.shape)
        digest.update(f"{keras.backend.standardize_dtype(site.weight.dtype)}[{shape}]".encode())
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
