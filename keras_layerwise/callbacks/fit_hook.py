"""Wraps ``keras.Model.fit``, so that a callback learns what Keras does not tell it.

Keras tells a callback neither what ``fit`` was given nor that training raised
or was interrupted. Both are known to the caller of ``fit`` only, so ``fit`` is
wrapped, once and transparently, when this package and Keras are both loaded.
"""

import functools
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import keras

from keras_layerwise.backend.processes import has_workers
from keras_layerwise.hyperparameters import fit as given

MULTI_WORKER = (
    "Keras 3 does not train in fit under tf.distribute.MultiWorkerMirroredStrategy, with any "
    "optimizer (keras issue 20585). Train in a loop of your own, with strategy.run and "
    "optimizer.apply."
)

_lock = threading.Lock()


def install() -> None:
    """Lets every later ``fit`` be described, and its callbacks be told of a failure.

    A callback in `fit`'s list with a method ``on_train_error(error)`` has it
    called with what ``fit`` raises, interruptions included; then it is raised. What Keras
    raises under a strategy that its ``fit`` does not work with says so.
    """
    with _lock:
        original = keras.Model.fit
        if getattr(original, "_keras_layerwise", False):
            return
        signature = inspect.signature(original)

        @functools.wraps(original)
        def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                bound = signature.bind(self, *args, **kwargs)
            except TypeError:
                return original(self, *args, **kwargs)  # which says what is wrong
            bound.apply_defaults()
            callbacks = tuple(_flatten(bound.arguments.get("callbacks")))
            given.begin(self, bound.arguments, callbacks)
            try:
                return original(self, *args, **kwargs)
            except BaseException as error:
                for callback in callbacks:
                    if hasattr(callback, "on_train_error"):
                        callback.on_train_error(error)
                if "PerReplica" in str(error) and has_workers(
                    getattr(self, "distribute_strategy", None)
                ):
                    raise RuntimeError(MULTI_WORKER) from error
                raise
            finally:
                given.end(self)

        fit._keras_layerwise = True  # type: ignore[attr-defined]
        keras.Model.fit = fit


def _flatten(callbacks: Any) -> Iterator[Any]:
    if callbacks is None:
        return
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    if isinstance(callbacks, (list, tuple)):
        for callback in callbacks:
            yield from _flatten(callback)
    else:
        yield callbacks
