"""Goes a part of the way from a reference to the trained weights, and back."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import numpy.typing as npt

from keras_layerwise import tables
from keras_layerwise.backend import arrays
from keras_layerwise.backend.frozen_layers import frozen_in_calls
from keras_layerwise.drift import sources
from keras_layerwise.drift.reference import Reference
from keras_layerwise.errors import RuleError
from keras_layerwise.model import interpolated, selectors
from keras_layerwise.model.structure import Site, sites
from keras_layerwise.storage import schema

Array = npt.NDArray[Any]


class Interpolation:
    """Weights between a reference and the trained ones, and the way back.

    Use it in ``with``, or call `undo`. `interpolate` makes it.

    Attributes:
        alpha: the share of the trained weights, by weight path.
    """

    def __init__(
        self,
        model: Any,
        asked: Any,
        chosen: Sequence[tuple[Site, float]],
        reference: Sequence[Array],
    ) -> None:
        self.alpha = {site.path: alpha for site, alpha in chosen}
        self._model = model
        interpolated.hold(model, self, _said(asked))
        self._trained: list[tuple[Any, Array]] = []
        for (site, alpha), start in zip(chosen, reference, strict=True):
            trained = np.array(arrays.host(site.weight.value))
            if alpha == 1.0 or not _is_float(site.weight):
                continue
            self._trained.append((site.weight, trained))
            site.weight.assign(start if alpha == 0.0 else _between(start, trained, alpha))

    def undo(self) -> None:
        """Puts the trained weights back, bit for bit; a second call changes nothing."""
        while self._trained:
            weight, value = self._trained.pop()
            weight.assign(value)
        interpolated.release(self._model, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()


def interpolate(model: Any, reference: Any, alpha: Any) -> Interpolation:
    """Puts (1 − α)·w₀ + α·w into the model: w its weights, w₀ the reference's.

    Weights between the pretrained and the fine-tuned ones often keep most of
    what both know. Moving averages are interpolated as well; see
    `reestimate_averages` for an alternative. A record made while the model
    holds them has α as ``training/interpolation``.

    Args:
        model: a built model with the trained weights.
        reference: as for `WeightDrift`: another model, a ``.weights.h5`` or
            ``.keras`` file, or a list of arrays, one for each weight of the
            model. Or the directory of a run that `WeightDrift` followed, for
            the weights that the run began with.
        alpha: the share of the trained weights, from 0 (the reference) to 1
            (as they are); a number for all weights, or ``{selector: number}``,
            where the first selector that picks a weight decides and the
            others stay as they are. A part of an outline is a selector.

    Returns:
        An `Interpolation`; the model holds the new weights until it is undone.

    Raises:
        RuleError: for an `alpha` outside [0, 1] or a selector that picks nothing.
        ValueError: for a reference that does not fit the model.
        FileNotFoundError: where there is no such file.

    Source: WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="out")])
    >>> pretrained = [np.zeros((1, 1)), np.zeros(1)]
    >>> model.set_weights([np.ones((1, 1)), np.ones(1)])
    >>> with interpolate(model, pretrained, 0.75):
    ...     float(model.predict(np.ones((1, 1)), verbose=0)[0, 0])
    1.5
    >>> float(model.predict(np.ones((1, 1)), verbose=0)[0, 0])
    2.0
    """
    every = _weights_of(model)
    shares = _shares(alpha, every)
    return Interpolation(model, alpha, shares, _values(reference, model, every))


@dataclass(frozen=True)
class InterpolationCurve:
    """What was found at each α of `interpolation_curve`.

    Attributes:
        rows: one mapping for each α, with ``"alpha"`` and every result.
    """

    rows: tuple[dict[str, float], ...]

    def best(self, result: str, better: Callable[[Iterable[float]], float] = max) -> float:
        """Gives the α at which `result` is largest, or smallest with ``better=min``."""
        wanted = better([row[result] for row in self.rows])
        return next(row["alpha"] for row in self.rows if row[result] == wanted)

    def plot(self) -> Any:
        """Draws every result over α; returns the Matplotlib figure."""
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        axes = figure.add_subplot()
        for name in self._names():
            axes.plot(
                [row["alpha"] for row in self.rows],
                [row[name] for row in self.rows],
                marker="o",
                label=name,
            )
        axes.set_xlabel("α, share of the trained weights")
        axes.legend()
        return figure

    def __str__(self) -> str:
        names = self._names()
        rows = [[f"{row['alpha']:g}", *(f"{row[n]:.6g}" for n in names)] for row in self.rows]
        return tables.render("Interpolation", ["#α", *(f"#{name}" for name in names)], rows)

    def _names(self) -> list[str]:
        return [name for name in self.rows[0] if name != "alpha"]


def interpolation_curve(
    model: Any,
    reference: Any,
    alphas: Iterable[float],
    evaluate: Callable[[Any], Any],
    verbose: int = 1,
) -> InterpolationCurve:
    """Evaluates the model at each α, and leaves it as it was, also where that raises.

    Args:
        model: as for `interpolate`.
        reference: as for `interpolate`.
        alphas: numbers from 0 to 1.
        evaluate: called with the model at each α; returns a number or a
            mapping of names to numbers.
        verbose: 1 shows a progress bar.

    Returns:
        An `InterpolationCurve`: a table when printed, and `InterpolationCurve.plot`.

    Raises:
        RuleError, ValueError, FileNotFoundError: as `interpolate`, before anything is evaluated.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="out")])
    >>> model.set_weights([np.ones((1, 1)), np.ones(1)])
    >>> read = lambda model: {"bias": float(model.get_weights()[1][0])}
    >>> interpolation_curve(
    ...     model, [np.zeros((1, 1)), np.zeros(1)], [0, 0.5, 1], read, verbose=0
    ... ).rows
    ({'alpha': 0.0, 'bias': 0.0}, {'alpha': 0.5, 'bias': 0.5}, {'alpha': 1.0, 'bias': 1.0})
    """
    every = _weights_of(model)
    wanted = [_share(alpha) for alpha in alphas]
    if not wanted:
        raise RuleError("`alphas` is empty; pass numbers from 0 to 1.")
    values = _values(reference, model, every)
    bar = keras.utils.Progbar(len(wanted), unit_name="α") if verbose else None
    rows = []
    for alpha in wanted:
        with Interpolation(model, alpha, [(site, alpha) for site in every], values):
            found = evaluate(model)
        results = found if isinstance(found, Mapping) else {"result": found}
        rows.append({"alpha": alpha, **{str(name): float(v) for name, v in results.items()}})
        if bar is not None:
            bar.add(1)
    return InterpolationCurve(tuple(rows))


def reestimate_averages(model: Any, data: Any, batch_size: int = 32) -> int:
    """Replaces the moving averages of `BatchNormalization` by those over `data`.

    Interpolated weights put out other means than either end; this gives each
    normalisation the plain average over the batches. Layers that do not train,
    by their flag or by a rule, keep theirs, as in training.

    Args:
        model: a built model.
        data: an array of inputs, or batches: each the inputs, or a tuple of
            inputs and whatever follows.
        batch_size: rows of a batch, for an array.

    Returns:
        How many layers were estimated anew.

    Raises:
        ValueError: where `model` has no such layer that trains, or `data` no batch.

    Source: ``update_bn`` of Stochastic Weight Averaging, Izmailov et al. 2018,
    arXiv 1803.05407.

    Example:

    >>> import keras, numpy as np
    >>> norm = keras.layers.BatchNormalization()
    >>> model = keras.Sequential([keras.Input((1,)), norm])
    >>> reestimate_averages(model, np.array([[1.0], [3.0]]))
    1
    >>> float(norm.moving_mean[0])
    2.0
    """
    frozen = frozen_in_calls(model)
    layers = {
        id(layer): layer
        for site in sites(model)
        if isinstance(layer := site.layer, keras.layers.BatchNormalization)
        and layer.trainable
        and id(layer) not in frozen
    }
    if not layers:
        raise ValueError(f"{model.name!r} has no BatchNormalization that trains.")
    momenta = [(layer, layer.momentum) for layer in layers.values()]
    count = 0
    try:
        for inputs in _batches(data, batch_size):
            # The share of the past that makes an exponential average a plain one.
            for layer in layers.values():
                layer.momentum = count / (count + 1)
            model(inputs, training=True)
            count += 1
    finally:
        for layer, momentum in momenta:
            layer.momentum = momentum
    if not count:
        raise ValueError("`data` has no batch; pass inputs to average over.")
    return len(layers)


def _batches(data: Any, size: int) -> Iterable[Any]:
    if hasattr(data, "shape"):
        for start in range(0, len(data), size):
            yield data[start : start + size]
        return
    for batch in data:
        yield keras.utils.unpack_x_y_sample_weight(batch)[0]


def _weights_of(model: Any) -> Sequence[Site]:
    found = sites(model)
    if not found:
        raise RuleError(f"{model.name!r} has no weights yet. Build the model first.")
    return found


def _shares(alpha: Any, every: Sequence[Site]) -> list[tuple[Site, float]]:
    if not isinstance(alpha, Mapping):
        share = _share(alpha)
        return [(site, share) for site in every]
    chosen: dict[int, float] = {}
    for selector, number in alpha.items():
        share = _share(number)
        picked = selectors.select(selector, every)
        if not picked:
            near = ", ".join(repr(name) for name in selectors.nearest(selector, every))
            raise RuleError(
                f"`alpha` selects nothing by {selectors.label(selector)!r}. The nearest of what "
                f"this model has: {near}."
            )
        for position in picked:
            chosen.setdefault(position, share)
    return [(site, chosen.get(i, 1.0)) for i, site in enumerate(every)]


def _said(alpha: Any) -> Any:
    """Gives an accepted α as a record has it: a number, or numbers by selector."""
    if isinstance(alpha, Mapping):
        return {selectors.label(selector): float(share) for selector, share in alpha.items()}
    return float(alpha)


def _share(alpha: Any) -> float:
    try:
        number = float(alpha)
    except (TypeError, ValueError):
        raise TypeError(
            f"`alpha` is a number or a mapping of selectors to numbers; received {alpha!r}."
        ) from None
    if not 0.0 <= number <= 1.0:
        raise RuleError(
            f"`alpha` is the share of the trained weights, from 0 to 1; received {alpha!r}."
        )
    return number


def _values(reference: Any, model: Any, every: Sequence[Site]) -> list[Array]:
    """Gives the values of a reference, an array for each weight of the model."""
    found = _reference(reference, model, every)
    if not found.is_whole(arrays.Watched([site.weight for site in every])):
        raise ValueError("The model's shards lie in several processes; interpolate in one.")
    return [
        np.array(arrays.whole(site.weight.shape, pieces))
        for site, pieces in zip(every, found.pieces, strict=True)
    ]


def _reference(asked: Any, model: Any, every: Sequence[Site]) -> Reference:
    if not isinstance(asked, (str, os.PathLike)) or not Path(asked).is_dir():
        return sources.given(asked, model, every, every)[0]
    path = Path(asked)
    file = path / schema.DRIFT_DIR / schema.REFERENCE_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} holds no weights that a run began with: there is no {file}. Pass a run that "
            "WeightDrift followed with reference='initial', or a file, a model or arrays."
        )
    return sources.load(file, every)[0]


def _is_float(weight: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(weight.dtype)


def _between(start: Array, trained: Array, alpha: float) -> Array:
    wide = np.float64 if trained.dtype == np.float64 else np.float32
    first: Array = np.asarray(start, wide)
    second: Array = np.asarray(trained, wide)
    return np.asarray(first * (1.0 - alpha) + second * alpha, trained.dtype)
