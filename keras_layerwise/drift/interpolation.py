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
from keras_layerwise.backend import arrays, internals
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
        self._trained: list[tuple[Any, Array]] = []
        interpolated.hold(model, self, _said(asked))
        try:
            for (site, alpha), start in zip(chosen, reference, strict=True):
                if alpha == 1.0 or not _is_float(site.weight):
                    continue
                trained = np.array(arrays.host(site.weight.value))
                self._trained.append((site.weight, trained))
                site.weight.assign(start if alpha == 0.0 else _between(start, trained, alpha))
        except BaseException:  # an interruption as well: no weight stays half-way
            self.undo()
            raise

    def undo(self) -> None:
        """Puts the trained weights back, bit for bit; a second call changes nothing.

        Where a later interpolation of the model moved them on, they come back
        from that as well, and its own `undo` leaves them.
        """
        back = {id(weight) for weight, _ in self._trained}
        while self._trained:
            weight, value = self._trained[-1]
            weight.assign(value)
            self._trained.pop()
        for later in interpolated.release(self._model, self):
            later.forget(back)

    def forget(self, weights: set[int]) -> None:
        """Leaves the weights with these ids to whoever moved them last."""
        kept = [pair for pair in self._trained if id(pair[0]) not in weights]
        if self._trained and not kept:
            interpolated.release(self._model, self)
        self._trained = kept

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()


def interpolate(model: Any, reference: Any, alpha: Any) -> Interpolation:
    """Puts (1 − α)·w₀ + α·w into the model: w its weights, w₀ the reference's.

    Weights between the pretrained and the fine-tuned ones often keep most of
    what both know. Moving averages are interpolated as well; see
    `reestimate_averages` for an alternative. A record made while the model
    holds them has α as ``training/interpolation``. Called once more, it goes on
    from what the model holds then: a notebook's cell that may run twice is
    better a ``with`` block.

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
    internals.sync_state(model)
    every = _weights_of(model)
    shares = _shares(alpha, every)
    return Interpolation(model, alpha, shares, _values(reference, model, every))


@dataclass(frozen=True)
class InterpolationCurve:
    """What was found at each α of `interpolation_curve`.

    Attributes:
        rows: one mapping for each α, with ``"alpha"``, as it was given, and every result.
    """

    rows: tuple[dict[str, Any], ...]

    def best(self, result: str, better: Callable[[Iterable[float]], float] = max) -> Any:
        """Gives the α at which `result` is largest, or smallest with ``better=min``."""
        wanted = better([row[result] for row in self.rows])
        return next(row["alpha"] for row in self.rows if row[result] == wanted)

    def plot(self) -> Any:
        """Draws every result over α; returns the Matplotlib figure."""
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        axes = figure.add_subplot()
        alphas = [row["alpha"] for row in self.rows]
        by_selector = any(isinstance(alpha, Mapping) for alpha in alphas)
        places = range(len(alphas)) if by_selector else alphas
        for name in self._names():
            axes.plot(places, [row[name] for row in self.rows], marker="o", label=name)
        if by_selector:
            axes.set_xticks(places, [interpolated.as_text(_said(alpha)) for alpha in alphas])
        axes.set_xlabel("α, share of the trained weights")
        axes.legend()
        return figure

    def __str__(self) -> str:
        names = self._names()
        rows = [
            [interpolated.as_text(_said(row["alpha"])), *(f"{row[n]:.6g}" for n in names)]
            for row in self.rows
        ]
        return tables.render("Interpolation", ["#α", *(f"#{name}" for name in names)], rows)

    def _names(self) -> list[str]:
        return [name for name in self.rows[0] if name != "alpha"]


def interpolation_curve(
    model: Any,
    reference: Any,
    alphas: Iterable[Any],
    evaluate: Callable[[Any], Any],
    verbose: int = 1,
) -> InterpolationCurve:
    """Evaluates the model at each α, and leaves it as it was, also where that raises.

    Args:
        model: as for `interpolate`.
        reference: as for `interpolate`.
        alphas: each as `alpha` of `interpolate`: numbers from 0 to 1, or by selector.
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
    internals.sync_state(model)
    every = _weights_of(model)
    if isinstance(alphas, (str, Mapping)) or not isinstance(alphas, Iterable):
        raise TypeError(f"`alphas` is a list, with an α in each place; received {alphas!r}.")
    wanted = [(alpha, _shares(alpha, every)) for alpha in alphas]
    if not wanted:
        raise RuleError("`alphas` is empty; pass numbers from 0 to 1.")
    values = _values(reference, model, every)
    bar = keras.utils.Progbar(len(wanted), unit_name="α") if verbose else None
    rows = []
    for alpha, shares in wanted:
        with Interpolation(model, alpha, shares, values):
            found = evaluate(model)
        given = alpha if isinstance(alpha, Mapping) else float(alpha)
        rows.append({"alpha": given, **_results(found)})
        if bar is not None:
            bar.add(1)
    return InterpolationCurve(tuple(rows))


def _results(found: Any) -> dict[str, float]:
    """Gives what was evaluated as numbers by name."""
    results = found if isinstance(found, Mapping) else {"result": found}
    try:
        return {str(name): float(value) for name, value in results.items()}
    except (TypeError, ValueError):
        raise TypeError(
            f"`evaluate` returns a number or a mapping of names to numbers; received {found!r}. "
            "model.evaluate gives a mapping with return_dict=True."
        ) from None


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
        number = None if isinstance(alpha, (bool, str)) else float(alpha)
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(
            f"`alpha` is a number or a mapping of selectors to numbers; received {alpha!r}."
        )
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
    if not isinstance(asked, (list, tuple, str, os.PathLike, keras.Layer)):
        raise TypeError(
            "`reference` is a model, a file, the directory of a run or a list of arrays; received "
            f"{asked!r:.200}."
        )
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
