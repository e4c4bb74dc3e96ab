"""Updates all weights at once on PyTorch, with a rate for each weight.

Keras's own hands one rate to ``torch._foreach_`` operations, so that weights
with other rates need calls of their own, about 40 µs each. The operations
also take a list of factors. What is computed stays what Keras computes, in its
order; as in `keras_layerwise.backend.fused`, for classes of Keras itself only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops


def update_of(optimizer: Any) -> Callable[..., None] | None:
    """Gives the update, None where Keras's own has to do it.

    It takes the optimizer, and for each weight its position in the optimizer,
    its gradient and itself; and the vector of their rates. What is computed of
    rates is computed of the vector, in one operation for all weights.
    """
    kind = type(optimizer)
    if not kind.__module__.startswith("keras.src.backend.torch."):
        return None
    found = _UPDATES.get(kind.__bases__[-1])
    return None if getattr(optimizer, "amsgrad", False) else found


def decay(variables: Sequence[Any], rates: Any, decays: Sequence[float]) -> None:
    """Decays w to w·(1 − λ·η), as Keras does on PyTorch, with λ and the vector η of the weights."""
    import torch

    with torch.no_grad():
        factors = 1 - rates * rates.new_tensor(decays)
        torch._foreach_mul_([v.value for v in variables], factors.unbind())


def _values(slots: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [slots[place].value for place in places]


def _sgd(optimizer: Any, places: Any, grads: Any, variables: Any, rates: Any) -> None:
    import torch

    values, rates = [v.value for v in variables], rates.unbind()
    if not optimizer.momentum:
        torch._foreach_addcmul_(values, grads, rates, value=-1)
        return
    momentums = _values(optimizer.momentums, places)
    torch._foreach_mul_(momentums, optimizer.momentum)
    torch._foreach_addcmul_(momentums, grads, rates, value=-1)
    if optimizer.nesterov:
        torch._foreach_addcmul_(values, grads, rates, value=-1)
        torch._foreach_add_(values, momentums, alpha=optimizer.momentum)
    else:
        torch._foreach_add_(values, momentums)


def _adam(optimizer: Any, places: Any, grads: Any, variables: Any, rates: Any) -> None:
    import torch

    dtype = variables[0].dtype
    step = ops.cast(optimizer.iterations + 1, dtype)
    first, second = (
        1 - ops.power(ops.cast(beta, dtype), step) for beta in (optimizer.beta_1, optimizer.beta_2)
    )
    lengths = (rates * ops.sqrt(second) / first).unbind()
    means = _values(optimizer._momentums, places)
    squares = _values(optimizer._velocities, places)
    torch._foreach_mul_(means, optimizer.beta_1)
    torch._foreach_add_(means, grads, alpha=1 - optimizer.beta_1)
    torch._foreach_mul_(squares, optimizer.beta_2)
    torch._foreach_add_(squares, torch._foreach_mul(grads, grads), alpha=1 - optimizer.beta_2)
    below = torch._foreach_add(torch._foreach_sqrt(squares), optimizer.epsilon)
    changes = torch._foreach_div(torch._foreach_mul(means, lengths), below)
    torch._foreach_add_([v.value for v in variables], changes, alpha=-1)


def _adagrad(optimizer: Any, places: Any, grads: Any, variables: Any, rates: Any) -> None:
    import torch

    sums = _values(optimizer._accumulators, places)
    torch._foreach_add_(sums, torch._foreach_mul(grads, grads))
    below = torch._foreach_sqrt(torch._foreach_add(sums, optimizer.epsilon))
    changes = torch._foreach_div(torch._foreach_mul(grads, rates.unbind()), below)
    torch._foreach_add_([v.value for v in variables], changes, alpha=-1)


_UPDATES: dict[type, Callable[..., None]] = {
    keras.optimizers.SGD: _sgd,
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.Adagrad: _adagrad,
}
