"""Updates of one weight that are faster than Keras's own and compute the same to rounding.

A class of Keras itself may have one, a subclass has none, since it may have
changed the formula. The rest is left to Keras, bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops


@dataclass(frozen=True)
class Update:
    """How one optimizer updates a weight in place.

    Attributes:
        per_weight: updates a weight, from the optimizer, the weight's position
            and variable, its gradient and rate, and `per_step`'s values.
        takes: whether a variable and its gradient are what `per_weight` can update.
        per_step: values that all weights share at a step, from the optimizer
            and the weights' dtype.
        dtypes: of the weights that it updates as Keras does.
    """

    per_weight: Callable[..., None]
    takes: Callable[[Any, Any], bool]
    per_step: Callable[[Any, str], tuple[Any, ...]] = lambda optimizer, dtype: ()
    dtypes: tuple[str, ...] = ("float32", "float64")

    def apply(
        self, optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
    ) -> None:
        """Updates one weight; `shared` is what `per_step` gave."""
        dtype = variable.dtype
        self.per_weight(
            optimizer, position, variable, ops.cast(gradient, dtype), ops.cast(rate, dtype), shared
        )
