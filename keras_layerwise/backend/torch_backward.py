"""Leaves what is frozen out of PyTorch's backward pass.

PyTorch computes a gradient for every parameter that asks for one, used or
not; TensorFlow and JAX leave out what is not used. Keras's training step has
the optimizer scale the loss and then calls ``backward`` on it, so the scaled
loss can say which gradients are wanted. No parameter is changed for it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has ``torch.compile`` call `function` as it is: it takes a weak reference for its object."""
    if keras.backend.backend() != "torch":
        return function
    import torch

    wrapped: Callable[..., Any] = torch.compiler.disable(function)
    return wrapped


def towards(loss: Any, parameters: Sequence[Any]) -> Any:
    """Gives `loss` a ``backward()`` that computes the gradients of `parameters` only."""
    import torch

    if torch.compiler.is_compiling():  # which does not trace through subclasses
        return loss
    found = loss.as_subclass(_loss_class())
    found.parameters = parameters
    return found


@functools.cache
def _loss_class() -> type:
    import torch

    class Loss(torch.Tensor):
        parameters: Sequence[Any] | None = None  # what is computed from a loss has none

        def backward(self, *args: Any, inputs: Any = None, **kwargs: Any) -> None:
            wanted = self.parameters if inputs is None else inputs
            self.as_subclass(torch.Tensor).backward(*args, inputs=wanted, **kwargs)

    return Loss
