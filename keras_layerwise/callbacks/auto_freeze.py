"""Freezes blocks that have settled, while a model trains."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_layerwise.backend import internals
from keras_layerwise.backend.arrays import Watched
from keras_layerwise.drift import settling, sums
from keras_layerwise.drift.reference import Reference
from keras_layerwise.errors import RuleError
from keras_layerwise.hyperparameters.fit import callbacks_of
from keras_layerwise.model import selectors
from keras_layerwise.model.outline import Outline, outline
from keras_layerwise.optimizer.layerwise import LayerwiseOptimizer, optimizer_of


class AutoFreeze(keras.callbacks.Callback):
    """Freezes blocks that have settled, from the bottom up, so that training gets faster.

    At intervals it looks at how far each block has moved since the last look,
    ‖w_t − w_s‖₂ over the block's weights. Blocks below the first one whose
    movement still changes as much as the others' are frozen, with the stem;
    see `keras_layerwise.drift.settling.first_unsettled`. The last block, the
    neck and the head train to the end. What was frozen stays frozen.

    A run that is resumed goes on with what was frozen, and looks twice before
    it decides anew. Where another callback is to unfreeze blocks, as
    `GradualUnfreeze` does at every epoch, train one after the other, in a
    ``fit`` each.

    A change of what is frozen costs a new trace of the step, so nothing is
    frozen where the steps that are left would not earn it back: a block saves
    two thirds of its share of each. All is counted in steps: a run that is
    repeated decides the same.

    Args:
        interval: ``"epoch"``, or a number of steps between looks. The first
            decision comes with the third look.
        percentile: of the blocks' relative changes, from 0 to 100: a block
            at or above it has not settled. Higher freezes more.
        trace_cost: steps that a new trace takes as long as. The first step of
            a run tells: it is a trace as well.
        parts: the parts of the network; `outline` finds them where none are given.

    Attributes:
        decisions: a mapping for each change: ``step``, ``epoch``, and
            ``frozen``, the keys of all parts that are frozen then.

    Raises:
        ValueError: for an `interval`, `percentile` or `trace_cost` out of range.
        RuleError: at the start of training, where the model is not trained by
            a `LayerwiseOptimizer`, its parts cannot be told, or another
            callback is to unfreeze some of them.

    Source: AutoFreeze, Liu et al. 2021, arXiv 2102.01386, which looks at
    gradients where this looks at movement.

    Example:

    >>> import keras, numpy as np
    >>> from keras_layerwise import LayerwiseOptimizer
    >>> layers = [keras.layers.Dense(4, name=f"block_{i}") for i in range(4)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1, name="head")])
    >>> model.compile(LayerwiseOptimizer(keras.optimizers.SGD(0.01)), "mse")
    >>> freeze = AutoFreeze(trace_cost=0)
    >>> x = np.random.default_rng(0).normal(size=(32, 4))
    >>> _ = model.fit(x, x[:, :1], epochs=8, verbose=0, callbacks=[freeze])
    >>> "head" in (key for decision in freeze.decisions for key in decision["frozen"])
    False
    """

    def __init__(
        self,
        interval: str | int = "epoch",
        *,
        percentile: float = 50.0,
        trace_cost: int = 20,
        parts: Outline | None = None,
    ) -> None:
        super().__init__()
        is_count = isinstance(interval, int) and not isinstance(interval, bool) and interval > 0
        if interval != "epoch" and not is_count:
            raise ValueError(
                f'`interval` is "epoch" or a number of steps ≥ 1; received {interval!r}.'
            )
        if not 0 <= percentile <= 100:
            raise ValueError(f"`percentile` is from 0 to 100; received {percentile!r}.")
        if isinstance(trace_cost, bool) or not isinstance(trace_cost, int) or trace_cost < 0:
            raise ValueError(f"`trace_cost` is a number of steps ≥ 0; received {trace_cost!r}.")
        self.interval: Any = interval
        self.percentile = float(percentile)
        self.trace_cost = trace_cost
        self.parts = parts
        self.decisions: list[dict[str, Any]] = []
        self._follower: _Follower | None = None
        self._epoch = self._batches = self._seen = self._looks = 0

    def planned_changes(self, epoch: float) -> list[Any]:
        """Lists what has been frozen so far, by which the record tells it from an accident.

        By the end that may be all but the last block: a checkpoint from which a
        run is resumed may hold a decision that its record has not seen.
        """
        if epoch == math.inf and self.model.built:
            return _below(self._parts(), -1)
        if self._follower is None or not self.decisions:
            return []
        return self._follower.below(self._follower.start)

    def _parts(self) -> Outline:
        return outline(self.model) if self.parts is None else self.parts

    def get_config(self) -> dict[str, Any]:
        """Gives the settings, as a record shows them."""
        return {
            "interval": self.interval,
            "percentile": self.percentile,
            "trace_cost": self.trace_cost,
        }

    def on_train_begin(self, logs: Any = None) -> None:
        """Resets what was seen if the model or its optimizer changed."""
        if self._follower is not None and not self._follower.is_of(self.model):
            self._follower, self.decisions, self._seen, self._looks = None, [], 0, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Takes the first look, here because other callbacks may restore weights before."""
        self._epoch, self._batches = epoch, 0
        if self._follower is None and self.model.built:
            self._follow()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Looks at the steps before this one where the interval is in steps."""
        if self.interval != "epoch" and self._seen // self.interval > self._looks:
            self._looks = self._seen // self.interval
            self._look(batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the steps, of which Keras may make several before it says so."""
        self._seen += batch + 1 - self._batches
        self._batches = batch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Looks at the epoch where the interval is an epoch."""
        if self._follower is None:
            self._follow()
        elif self.interval == "epoch":
            self._look(self._batches)

    def _follow(self) -> None:
        self._follower = _Follower(self.model, self._parts())
        self._follower.check(c for c in callbacks_of(self.model) or () if c is not self)

    def _look(self, batch: int) -> None:
        follower = self._follower
        if follower is None:
            return
        start = follower.look(self.percentile)
        more = start - follower.start
        if more and follower.pays(more, self._steps_left(batch), self.trace_cost):
            follower.freeze(start)
            self.decisions.append(
                {
                    "step": follower.step(),
                    "epoch": self._epoch,
                    "frozen": [part.key for part in follower.below(start)],
                }
            )

    def _steps_left(self, batch: int) -> int:
        """Steps that `fit` has still to make; an epoch of unknown length counts as none."""
        epochs = (self.params or {}).get("epochs", self._epoch + 1)
        steps = (self.params or {}).get("steps") or self._batches
        return int((epochs - self._epoch - 1) * steps + max(steps - batch, 0))


class _Follower:
    """How far each block of a model has moved from look to look, and what is frozen of it.

    Attributes:
        start: position of the first block that trains.
    """

    def __init__(self, model: Any, parts: Outline) -> None:
        self._model = model
        self._optimizer = self._optimizer_of(model)
        self._parts = parts
        blocks = list(self._parts.blocks)
        if len(blocks) < 2:
            raise RuleError(
                f"AutoFreeze needs at least two blocks; the outline of {model.name!r} has "
                f"{len(blocks)}. Pass parts=outline(model, block=...)."
            )
        weights = [weight for block in blocks for weight in block.weights]
        owners = [i for i, block in enumerate(blocks) for _ in block.weights]
        self._blocks = blocks
        self._groups = np.array(owners, np.intp)
        self._watched = Watched(weights)
        self._reference = Reference.taken(self._watched)
        self._previous: Sequence[float] | None = None
        self.start = self._frozen_already()

    @staticmethod
    def _optimizer_of(model: Any) -> LayerwiseOptimizer:
        found: LayerwiseOptimizer | None = optimizer_of(model)
        if found is None:
            raise RuleError(
                "AutoFreeze needs a LayerwiseOptimizer; the model is trained by "
                f"{type(model.optimizer).__name__}. Wrap it: LayerwiseOptimizer(optimizer)."
            )
        return found

    def is_of(self, model: Any) -> bool:
        """Tells whether `model`, trained as it is now, is the one that is followed."""
        return model is self._model and optimizer_of(model) is self._optimizer

    def check(self, callbacks: Iterable[Any]) -> None:
        """Raises a `RuleError` where one of `callbacks` plans to change what this freezes."""
        mine = {a.path for part in self.below(-1) for a in self._assigned(part)}
        for callback in callbacks:
            plan = getattr(callback, "planned_changes", lambda epoch: ())
            for selector in plan(float("inf")):
                if mine & {found.path for found in self._assigned(selector)}:
                    raise RuleError(
                        f"{type(callback).__name__} is to change {selectors.label(selector)!r} in "
                        "this fit, which AutoFreeze may have frozen by then. Train one after the "
                        "other: fit(..., epochs=3, callbacks=[the one]), then fit(..., epochs=10, "
                        "initial_epoch=3, callbacks=[AutoFreeze()])."
                    )

    def _assigned(self, selector: Any) -> tuple[Any, ...]:
        return self._optimizer.selected(selector)

    def look(self, percentile: float) -> int:
        """Measures the movement since the last look; returns the first unsettled block."""
        internals.sync_state(self._model)
        table = self._reference.measure(self._watched)
        self._reference.advance(self._watched, table)
        moved = sums.merge(table, self._groups, len(self._blocks))[:, sums.SQUARE] ** 0.5
        previous, self._previous = self._previous, moved.tolist()
        if previous is None:
            return self.start
        return settling.first_unsettled(previous, moved.tolist(), self.start, percentile)

    def pays(self, more: int, steps_left: int, trace_cost: int) -> bool:
        """Tells whether freezing so many more blocks earns back the trace that it costs."""
        return settling.pays(steps_left, trace_cost, more, len(self._blocks))

    def below(self, start: int) -> list[Any]:
        """Gives the parts under block `start`: the stem, where there is one, and the blocks."""
        return _below(self._parts, start)

    def freeze(self, start: int) -> None:
        """Freezes what is under block `start`."""
        self._optimizer.freeze(self.below(start))
        self.start = start

    def step(self) -> int:
        """Gives the optimizer's step."""
        return int(keras.ops.convert_to_numpy(self._optimizer.iterations))

    def _frozen_already(self) -> int:
        """Tells how many blocks at the bottom are frozen, in a run that goes on."""
        for i, block in enumerate(self._blocks[:-1]):
            if not all(found.frozen for found in self._assigned(block)):
                return i
        return len(self._blocks) - 1


def _below(parts: Outline, block: int) -> list[Any]:
    """Gives the parts under a block: the stem, where there is one, and the blocks."""
    stem = [parts.stem] if parts.stem.weights else []
    return [*stem, *parts.blocks[:block]] if block else []
