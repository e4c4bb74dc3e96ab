"""What is done once, as soon as this package and Keras are both loaded."""

from keras_layerwise.callbacks import fit_hook
from keras_layerwise.optimizer import (
    attachment,
    layerwise,  # noqa: F401 - registers its classes with Keras
)

attachment.install()  # before the hook on fit, which goes around what it finds
fit_hook.install()
