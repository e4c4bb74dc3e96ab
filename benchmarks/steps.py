"""Training steps with the bare optimizer, with ours, and with others'."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from benchmarks import machine, measure, models
from benchmarks.apart import Built, apart
from benchmarks.measure import AGAIN, BASELINE, MULTI, OURS
from benchmarks.models import OPTIMIZERS, RATE
from keras_layerwise import LayerwiseOptimizer, Rule

UNFUSED, TORCH = "unfused", "torch.optim"


def compiled(name: str, optimizer: Callable[[Any], Any], jit: bool, frozen: int = 0) -> Any:
    """A new model with the optimizer that is made for it, the lowest layers not trainable."""
    model = models.build(name)
    for layer in model.layers[:frozen]:
        layer.trainable = False
    model.compile(optimizer(model), loss="mse", jit_compile=jit)
    return model


@dataclass(frozen=True)
class Steps:
    """A comparison of training steps.

    Attributes:
        name: of the model.
        optimizer: of `models.OPTIMIZERS`.
        groups: number of different rates, None for one a layer.
        jit: whether the step is compiled by XLA; always so on JAX.
        precision: Keras's dtype policy.
        peers: of ``"unfused"``, ``"MultiOptimizer"`` and ``"torch.optim"``.
        frozen: number of the lowest layers that ours freezes by a rule and the
            bare optimizer's model by ``trainable = False``.
        to_initial: whether ours decays towards the initial weights, where the
            bare optimizer decays towards 0.
    """

    name: str
    optimizer: str = "adam"
    groups: int | None = 1
    jit: bool = False
    precision: str = "float32"
    peers: Sequence[str] = ()
    frozen: int = 0
    to_initial: bool = False

    def __call__(self, seconds: float) -> dict[str, Any]:
        """Measures for about `seconds` beyond building."""
        sides = [BASELINE, OURS, AGAIN, *self.peers]
        # On JAX a model is slower by what was compiled before it in its process. On a GPU each
        # process would take most of the memory for itself.
        alone = keras.backend.backend() == "jax" and machine.gpu_name() is None
        # Processes that are built alike differ by some percent, which no number of turns of one
        # of each shows: a minute or more counts each once.
        rounds = max(round(seconds / 5), 2) if alone else 1
        once = alone and seconds >= 60
        samples: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(rounds):
            with (apart if alone else _together)(self.build, sides) as built:
                steps = {side: one.step for side, one in built.items()}
                found = measure.in_turns(steps, seconds / rounds)
            for side in sides:
                samples[side] += [statistics.median(found[side])] if once else found[side]
        keras.config.set_dtype_policy("float32")
        return measure.compared(
            samples,
            first_seconds={side: one.first for side, one in built.items()},
            variables={side: one.variables for side, one in built.items() if one.variables},
        )

    def build(self, side: str) -> Built:
        """A model that has taken its first step."""
        keras.config.set_dtype_policy(self.precision)
        if side == TORCH:
            model = models.build(self.name)
            rates = models.groups(model, self.groups)
            step = models.torch_stepper(self.name, model, RATE, rates)
        else:
            frozen = self.frozen if side in (BASELINE, AGAIN) else 0
            model = compiled(
                self.name, lambda model: self._optimizer(side, model), self.jit, frozen
            )
            step = models.stepper(self.name, model)
        start = time.perf_counter()
        step(1)
        first = time.perf_counter() - start
        return Built(step, first, None if side == TORCH else len(model.optimizer.variables))

    def _optimizer(self, side: str, model: Any) -> Any:
        make = OPTIMIZERS[self.optimizer][1]
        if side in (BASELINE, AGAIN):
            return make()
        if side == MULTI:
            return _multi(model, make, models.groups(model, self.groups))
        rules: dict[str, Any] = {} if self.groups == 1 else models.groups(model, self.groups)
        rules.update({layer.name: Rule(frozen=True) for layer in model.layers[: self.frozen]})
        rules.update({"*": Rule(decay_to="initial")} if self.to_initial else {})
        return LayerwiseOptimizer(make(), rules, model=model, fused=side != UNFUSED)


def _multi(model: Any, make: Callable[[], Any], multipliers: dict[str, float]) -> Any:
    """Keras's way: an optimizer for each layer."""
    by_weight = {}
    for layer in model.layers:
        own = make()
        own.learning_rate = RATE * multipliers.get(layer.name, 1.0)
        by_weight.update({weight.path: own for weight in layer.trainable_weights})
    return keras.optimizers.MultiOptimizer(lambda variable: by_weight[variable.path])


@contextlib.contextmanager
def _together(build: Callable[[str], Built], sides: Sequence[str]) -> Iterator[dict[str, Built]]:
    """Builds the sides here; the first model of a process is faster, so that one goes before."""
    warm = build(BASELINE)
    yield {side: build(side) for side in sides}
    del warm  # its memory stayed taken as long as that
