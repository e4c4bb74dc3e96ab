"""Which rate every layer trains at, while it trains."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_layerwise.backend import internals, keras_optimizers
from keras_layerwise.callbacks.base import RunCallback, print_loss
from keras_layerwise.callbacks.drift_output import MOST_ROWS
from keras_layerwise.drift.alarms import spoken
from keras_layerwise.drift.views import signature
from keras_layerwise.hyperparameters.fit import optimizers_of
from keras_layerwise.model import outline, structure
from keras_layerwise.optimizer.attachment import assigned
from keras_layerwise.optimizer.layerwise import layerwise_optimizers
from keras_layerwise.storage import schema
from keras_layerwise.storage.schema import Row, Series
from keras_layerwise.storage.sinks import Sink

_RATE = "learning_rate"


@dataclass(frozen=True)
class _State:
    """What holds for one weight; a weight of a plain optimizer has multiplier 1."""

    layer: str
    part: str
    rate: float
    frozen: bool
    multiplier: float | None
    weight_decay: float | None
    parameters: int


class LearningRateMonitor(RunCallback):
    """Records the rate that every layer trains at, and what changes on the way.

    Each epoch's ``logs``, and so ``History``, get ``learning_rate/<layer>``
    for every layer, ``learning_rate/<layer>/<weight>`` where a layer's weights
    differ when training begins, and ``learning_rate`` for the optimizer's own.
    Of more than 60 layers they get ``learning_rate/<part>`` for each part of the
    network's outline: that of most of the parameters that train in it.
    A frozen layer's rate is 0. This works with any optimizer, and with the
    several that a model with a ``train_step`` of its own has.

    With `log_dir` the same goes to ``rates`` in the run's directory for TensorBoard: every
    layer in the "Layerwise" tab, three scalars elsewhere, and a message where
    something was frozen or unfrozen or its multiplier or decay changed.

    Args:
        log_dir: where the run is kept; nothing is written without.
        sinks: where else the rates go.

    Raises:
        OSError: for a `log_dir` of a store that nothing is installed for, and before the
            first step where it can not be written.

    Example:
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    >>> model.compile(keras.optimizers.SGD(0.5), "mse")
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> model.fit(x, y, verbose=0, callbacks=[LearningRateMonitor()]).history["learning_rate/out"]
    [0.5]
    """

    def __init__(
        self, log_dir: str | os.PathLike[str] | None = None, *, sinks: Iterable[Sink] = ()
    ) -> None:
        super().__init__(log_dir, sinks)
        self._states: dict[str, _State] = {}
        self._rows: dict[str, str] = {}
        self._weights: tuple[int, ...] = ()
        self._parts: dict[int, str] = {}

    def on_run_begin(self) -> None:
        """Opens the event file, so that what can not be written fails here."""
        if self.run.began == "new":
            self._states, self._rows = {}, {}
        if self.log_dir is not None:
            self.open_writer(schema.RATES_DIR)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Sees what other callbacks changed as an epoch began."""
        super().on_train_batch_begin(batch, logs)
        if batch == 0:
            self._look()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Records the rates that the epoch ended with."""
        super().on_epoch_end(epoch, logs)
        self._look()
        if not self._states:
            return
        rates = {name: self._states[path].rate for name, path in self._rows.items()}
        own = self.rate()
        if logs is not None:
            if own is not None:
                logs[_RATE] = own
            shown = _by_part(self._states) if len(rates) > MOST_ROWS else {}
            logs.update({f"{_RATE}/{name}": rate for name, rate in (shown or rates).items()})
        scalars = {} if own is None else {_RATE: own}
        moving = [rate for rate in rates.values() if rate]
        if moving:
            scalars |= {f"{_RATE}/lowest": min(moving), f"{_RATE}/highest": max(moving)}
        rows = tuple(self._row(name, path) for name, path in self._rows.items())
        values = Series("rates", rows), schema.rates_tag(rows), list(rates.values())
        for output in self.outputs():
            output.vectors([values], self.step())
            output.scalars(scalars, self.step())

    def on_run_end(self, error: BaseException | None) -> None:
        """Closes the event file."""
        print_loss("LearningRateMonitor", self.close(), self.directory)

    def _look(self) -> None:
        """Compares what holds now with what held before."""
        weights = signature(self.model)
        if weights != self._weights:
            self._weights, self._parts = weights, outline.keys(self.model)
        now = _states(self.model, self._parts)
        before, self._states = self._states, now
        if not before or before.keys() != now.keys():
            self._rows = _rows(now)
        messages = _changes(before, now, self.step) if before else []
        for output in self.outputs() if messages else ():
            output.messages(Series("changes"), schema.CHANGES, messages, messages[0]["step"])

    def _row(self, name: str, path: str) -> Row:
        members = [
            state
            for key, state in self._states.items()
            if key == name or (state.layer == name and name not in self._states)
        ]
        return Row(
            name=name,
            trainable=True,
            frozen=self._states[path].frozen,
            parameters=sum(state.parameters for state in members),
            part=self._states[path].part,
        )


def _states(model: Any, parts: Mapping[int, str]) -> dict[str, _State]:
    """Tells what holds for each weight that could be trained, by its path."""
    optimizers = optimizers_of(model)
    layerwise = [member for each in optimizers for member in layerwise_optimizers(each)]
    if not optimizers or any(not member.built for member in layerwise):
        return {}
    entries = assigned(model)
    rates: dict[int, float] = {}
    for optimizer in optimizers:
        rates |= _plain_rates(optimizer)
    found = {}
    for site in structure.sites(model):
        if internals.is_state(site.layer, site.weight):
            continue
        entry = entries.get(id(site.weight))
        frozen = not site.weight.trainable or (entry is not None and entry.frozen)
        rate = rates.get(id(site.weight)) if entry is None else entry.learning_rate
        found[site.path] = _State(
            layer=site.layer_path,
            part=parts.get(id(site.weight), ""),
            rate=0.0 if frozen or rate is None else rate,
            frozen=frozen,
            multiplier=1.0 if entry is None else entry.multiplier,
            weight_decay=None if entry is None else entry.weight_decay,
            parameters=int(np.prod(site.weight.shape)),
        )
    return found


def _by_part(states: Mapping[str, _State]) -> dict[str, float]:
    """Gives the rate of each part of the network: that of most of its parameters that train."""
    found: dict[str, Counter[float]] = {}
    for state in states.values():
        if state.part:
            counts = found.setdefault(spoken(state.part).removeprefix("the "), Counter())
            counts[state.rate] += 0 if state.frozen else state.parameters
    return {part: counts.most_common(1)[0][0] for part, counts in found.items()}


def _rows(states: dict[str, _State]) -> dict[str, str]:
    """Gives the rows to show, each with the weight whose rate it shows.

    A layer is one row where its weights agree, shown by the largest.
    """
    layers: dict[str, list[str]] = {}
    for path, state in states.items():
        layers.setdefault(state.layer, []).append(path)
    rows: dict[str, str] = {}
    for layer, paths in layers.items():
        if len({states[path].rate for path in paths}) == 1:
            rows[layer] = max(paths, key=lambda path: states[path].parameters)
        else:
            rows |= {path: path for path in paths}
    return rows


def _changes(before: dict[str, _State], now: dict[str, _State], step: Any) -> list[dict[str, Any]]:
    """Messages for what is not as it was; one for a layer whose weights changed alike."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for path in before.keys() & now.keys():
        old, new = before[path], now[path]
        changes: list[tuple[str, Any, Any]] = []
        if old.frozen != new.frozen:
            changes.append(("frozen" if new.frozen else "unfrozen", old.rate, new.rate))
        for what in ("multiplier", "weight_decay"):
            if getattr(old, what) != getattr(new, what):
                changes.append((what, getattr(old, what), getattr(new, what)))
        for change in changes:
            found.setdefault((new.layer, *change), []).append(path)
    messages = []
    for (layer, what, old_value, new_value), paths in found.items():
        whole = len(paths) == sum(state.layer == layer for state in now.values())
        for row in [layer] if whole else sorted(paths):
            messages.append((row, what, old_value, new_value))
    at = step() if messages else 0
    return [
        schema.change(what, row, at, old, new) for row, what, old, new in sorted(messages, key=str)
    ]


def _plain_rates(optimizer: Any) -> dict[int, float]:
    """Gives the rate of each weight, by id, that an optimizer without rules trains."""
    found: dict[int, float] = {}
    for member in getattr(optimizer, "optimizers", None) or [optimizer]:
        inner = getattr(member, "inner_optimizer", member)
        rate = _own_rate(inner)
        if rate is not None:
            found |= {id(weight): rate for weight in keras_optimizers.trained_by(inner)}
    return found


def _own_rate(optimizer: Any) -> float | None:
    """Gives the optimizer's own rate; Keras's MultiOptimizer has none."""
    try:
        return float(ops.convert_to_numpy(ops.convert_to_tensor(optimizer.learning_rate)))
    except AttributeError:
        return None
