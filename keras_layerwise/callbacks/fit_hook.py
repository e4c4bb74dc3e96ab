"""Wraps ``keras.Model.fit``, so that callbacks and optimizers learn what Keras does not tell them.

Keras tells a callback neither what ``fit`` was given nor that training raised
or was interrupted, and an optimizer not that it is to begin. All this is known
to the caller of ``fit`` only, so ``fit`` is wrapped, once and transparently,
when this package and Keras are both loaded. The wrapper acts for our callbacks
and optimizers only. Of a ``fit`` that has ended it keeps, for `inventory`, what
it was given in a few plain values, as long as the model lives.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_layerwise.backend.processes import has_workers
from keras_layerwise.callbacks.base import RunCallback
from keras_layerwise.hyperparameters import fit as given
from keras_layerwise.optimizer.attachment import layerwise_optimizers, prepare

MULTI_WORKER = (
    "Keras 3 does not train in fit under tf.distribute.MultiWorkerMirroredStrategy, with any "
    "optimizer (keras issue 20585). Train in a loop of your own, with strategy.run and "
    "optimizer.apply."
)

_lock = threading.Lock()
_is_on = False


def install() -> None:
    """Lets every later ``fit`` be described to our callbacks, and tells them of a failure.

    A `RunCallback` in `fit`'s list has ``on_train_error(error)`` called with what
    ``fit`` raises, interruptions included; then it is raised. A `LayerwiseOptimizer`
    is built for the model, or adopts what changed, before the first step. What Keras
    raises for these under a strategy that its ``fit`` does not work with says so.
    A second call changes nothing.
    """
    global _is_on
    with _lock:
        _is_on = True
        if not _is_ours(keras.Model.fit):
            keras.Model.fit = _wrapped(keras.Model.fit)


def uninstall() -> None:
    """Takes the wrapper off, or, where others have wrapped it since, out of action.

    Example:
    >>> uninstall()
    >>> hasattr(keras.Model.fit, "keras_layerwise_fit")
    False
    >>> install()
    >>> hasattr(keras.Model.fit, "keras_layerwise_fit")
    True
    """
    global _is_on
    with _lock:
        _is_on = False
        own: Any = vars(keras.Model).get("fit")
        if getattr(own, "keras_layerwise_fit", None) is not own:
            return
        del keras.Model.fit
        original = vars(own)["__wrapped__"]
        if keras.Model.fit is not original:  # it was not inherited
            keras.Model.fit = original


def _is_ours(fit: Any) -> bool:
    # functools.wraps copies the mark to what others wrap around it: ours is inside.
    return hasattr(fit, "keras_layerwise_fit")


def _wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_on:
            return original(self, *args, **kwargs)
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return original(self, *args, **kwargs)  # which says what is wrong
        bound.apply_defaults()
        callbacks = tuple(_flatten(bound.arguments.get("callbacks")))
        ours = [callback for callback in callbacks if isinstance(callback, RunCallback)]
        for callback in ours:
            callback.on_fit(self)
        before = given.begin(self, bound.arguments, callbacks)
        del bound
        try:
            prepare(self)
            return original(self, *args, **kwargs)
        except BaseException as error:
            for callback in ours:
                callback.on_train_error(error)
            concerns_us = ours or layerwise_optimizers(getattr(self, "optimizer", None))
            if concerns_us and _is_of_workers(self, error):
                raise RuntimeError(MULTI_WORKER) from error
            raise
        finally:
            given.end(self, before)

    fit.keras_layerwise_fit = fit  # type: ignore[attr-defined]
    return fit


def _is_of_workers(model: Any, error: BaseException) -> bool:
    """Tells whether Keras failed because it does not train in ``fit`` under several workers."""
    return "PerReplica" in str(error) and has_workers(getattr(model, "distribute_strategy", None))


def _flatten(callbacks: Any) -> Iterator[Any]:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    if callbacks is not None:
        yield from keras.tree.flatten(callbacks)
