"""Updates all weights at once on PyTorch, with a rate for each weight.

Keras's own hands one rate to ``torch._foreach_`` operations, so that weights
with other rates need calls of their own, about 40 µs each. The operations
also take a list of factors. What is computed stays what Keras computes, in its
order; as in `keras_layerwise.backend.fused`, for classes of Keras itself only.

On a GPU one such operation is a launch for many weights where its lists hold
numbers, or tensors of the weights' own shapes, and a launch for each weight
where they hold scalars on the device. So factors that are known go in as
numbers, and the rate that they multiply as one scalar.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from keras_layerwise.backend.keras_optimizers import (
    accumulators_of,
    averages_of,
    momentums_of,
    velocities_of,
)


@dataclass(frozen=True)
class Rates:
    """The rates of some weights.

    Attributes:
        value: the rate that all of `factors` multiply, a scalar; or a rate for
            each weight, a vector.
        factors: one for each weight, all 1 where `value` is a vector.
    """

    value: Any
    factors: Sequence[float]

    @property
    def scale(self) -> Any:
        """Gives what an operation multiplies by, before `factors`: a scalar, or a list of them."""
        return self.value.unbind() if self.value.ndim else self.value

    @property
    def each(self) -> Any:
        """Gives the rate of each weight, as a vector."""
        return self.value * self.value.new_tensor(self.factors)


def update_of(optimizer: Any) -> Callable[..., None] | None:
    """Gives the function that updates weights; None where Keras's own has to do it.

    Its arguments: the optimizer; lists of the weights' positions in it, of their
    gradients and of the weights themselves; and their `Rates`.
    """
    kind = type(optimizer)
    if not kind.__module__.startswith("keras.src.backend.torch."):
        return None
    found = _UPDATES.get(kind.__bases__[-1])
    return None if getattr(optimizer, "amsgrad", False) else found


def is_shorter(optimizer: Any) -> bool:
    """Tells whether the update takes fewer operations than Keras's own, at one rate as well."""
    return update_of(optimizer) not in (None, _sgd)


def decay(variables: Sequence[Any], rates: Rates, decays: Sequence[float]) -> None:
    """Decays w to w·(1 − λ·η), as Keras does on PyTorch, with a λ for each weight."""
    import torch

    values = [v.value for v in variables]
    factors = [factor * decay for factor, decay in zip(rates.factors, decays, strict=True)]
    decayed = replace(rates, factors=factors)
    with torch.no_grad():
        if _launches(values):
            _subtract_products(values, values, decayed)
        else:
            torch._foreach_mul_(values, (1 - decayed.each).unbind())


def pull(
    variables: Sequence[Any], targets: Sequence[Any], rates: Rates, decays: Sequence[float]
) -> None:
    """Moves w to w − λ·η·(w − w₀), with a λ and a w₀ for each weight."""
    import torch

    values, ends = [v.value for v in variables], [target.value for target in targets]
    with torch.no_grad():
        if _launches(values):
            own = [factor * decay for factor, decay in zip(rates.factors, decays, strict=True)]
            distances = torch._foreach_sub(values, ends)
            _subtract_products(values, distances, replace(rates, factors=own))
        else:
            shares = (rates.each * rates.value.new_tensor(decays)).unbind()
            own_shares = [share.to(v.dtype) for share, v in zip(shares, values, strict=True)]
            torch._foreach_lerp_(values, ends, own_shares)


def _launches(values: Sequence[Any]) -> bool:
    """Tells whether `values` lie on a device, where each operation costs a launch."""
    return bool(values[0].device.type != "cpu")


def _values(slots: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [slots[place].value for place in places]


def _subtract_products(values: Sequence[Any], those: Sequence[Any], rates: Rates) -> None:
    """Subtracts rate × `those` from `values`, weight by weight."""
    import torch

    if _launches(values):
        changes = torch._foreach_mul(those, rates.scale)
        torch._foreach_mul_(changes, rates.factors)
        torch._foreach_sub_(values, changes)
    else:
        torch._foreach_addcmul_(values, those, rates.each.unbind(), value=-1)


def _add_quotients(
    values: Sequence[Any], above: Sequence[Any], below: Sequence[Any], rates: Rates, sign: int = 1
) -> None:
    """Adds rate × `above` / `below` to `values`, weight by weight; subtracts where `sign` is -1."""
    import torch

    above = torch._foreach_mul(above, rates.scale)
    torch._foreach_addcdiv_(values, above, below, [sign * factor for factor in rates.factors])


def _sgd(optimizer: Any, places: Any, grads: Any, variables: Any, rates: Rates) -> None:
    import torch

    values = [v.value for v in variables]
    if not optimizer.momentum:
        _subtract_products(values, grads, rates)
        return
    momentums = _values(optimizer.momentums, places)
    torch._foreach_mul_(momentums, optimizer.momentum)
    _subtract_products(momentums, grads, rates)
    if optimizer.nesterov:
        _subtract_products(values, grads, rates)
        torch._foreach_add_(values, momentums, alpha=optimizer.momentum)
    else:
        torch._foreach_add_(values, momentums)


def _adam(optimizer: Any, places: Any, grads: Any, variables: Any, rates: Rates) -> None:
    import torch

    dtype = variables[0].dtype
    step = ops.cast(optimizer.iterations + 1, dtype)
    first, second = (
        1 - ops.power(ops.cast(beta, dtype), step) for beta in (optimizer.beta_1, optimizer.beta_2)
    )
    means = _values(momentums_of(optimizer), places)
    squares = _values(velocities_of(optimizer), places)
    torch._foreach_mul_(means, optimizer.beta_1)
    torch._foreach_add_(means, grads, alpha=1 - optimizer.beta_1)
    torch._foreach_mul_(squares, optimizer.beta_2)
    torch._foreach_addcmul_(squares, grads, grads, value=1 - optimizer.beta_2)
    below = torch._foreach_sqrt(squares)
    torch._foreach_add_(below, optimizer.epsilon)
    lengths = replace(rates, value=rates.value * ops.sqrt(second) / first)
    _add_quotients([v.value for v in variables], means, below, lengths, -1)


def _adagrad(optimizer: Any, places: Any, grads: Any, variables: Any, rates: Rates) -> None:
    import torch

    sums = _values(accumulators_of(optimizer), places)
    torch._foreach_addcmul_(sums, grads, grads)
    below = torch._foreach_add(sums, optimizer.epsilon)
    torch._foreach_sqrt_(below)
    _add_quotients([v.value for v in variables], grads, below, rates, -1)


def _rmsprop(optimizer: Any, places: Any, grads: Any, variables: Any, rates: Rates) -> None:
    import torch

    values, squares = [v.value for v in variables], _values(velocities_of(optimizer), places)
    torch._foreach_mul_(squares, optimizer.rho)
    torch._foreach_add_(squares, torch._foreach_mul(grads, grads), alpha=1 - optimizer.rho)
    below = torch._foreach_add(squares, optimizer.epsilon)
    if optimizer.centered:  # what nearly cancels: Keras's operations, each rounded as there
        means = _values(averages_of(optimizer), places)
        torch._foreach_mul_(means, optimizer.rho)
        torch._foreach_add_(means, grads, alpha=1 - optimizer.rho)
        torch._foreach_sub_(below, torch._foreach_mul(means, means))
    torch._foreach_sqrt_(below)
    if optimizer.momentum > 0:
        momentums = _values(momentums_of(optimizer), places)
        torch._foreach_mul_(momentums, optimizer.momentum)
        _add_quotients(momentums, grads, below, rates)
        torch._foreach_sub_(values, momentums)
    else:
        _add_quotients(values, grads, below, rates, -1)


def _lion(optimizer: Any, places: Any, grads: Any, variables: Any, rates: Rates) -> None:
    import torch

    means = _values(momentums_of(optimizer), places)
    ways = torch._foreach_mul(means, optimizer.beta_1)
    torch._foreach_add_(ways, grads, alpha=1 - optimizer.beta_1)
    torch._foreach_sign_(ways)
    _subtract_products([v.value for v in variables], ways, rates)
    torch._foreach_mul_(means, optimizer.beta_2)
    torch._foreach_add_(means, grads, alpha=1 - optimizer.beta_2)


_UPDATES: dict[type, Callable[..., None]] = {
    keras.optimizers.SGD: _sgd,
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.Adagrad: _adagrad,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.Lion: _lion,
}
