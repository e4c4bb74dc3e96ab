"""What is done once, as soon as this package and Keras are both loaded."""

import warnings

from keras_layerwise import registration
from keras_layerwise.backend import internals
from keras_layerwise.callbacks import fit_hook
from keras_layerwise.optimizer import (
    attachment,
    layerwise,  # noqa: F401 - registers its classes with Keras
)

attachment.install()
fit_hook.install()

if internals.backend() not in registration.BACKENDS:  # Keras itself does not train there
    warnings.warn(registration.advice(internals.backend()), stacklevel=2)
