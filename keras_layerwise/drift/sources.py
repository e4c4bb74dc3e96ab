"""Where a reference comes from: the weights themselves, a file, another model, arrays."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_layerwise.backend import arrays
from keras_layerwise.backend.arrays import Watched
from keras_layerwise.drift.reference import Reference
from keras_layerwise.drift.views import View
from keras_layerwise.model import selectors
from keras_layerwise.model.structure import Site, sites
from keras_layerwise.storage import reference as reference_file


def check(asked: Any) -> None:
    """Refuses what can be no reference.

    Raises:
        ValueError: for anything but a word, a file, a model or a list of arrays.
    """
    words = ("initial", "previous")
    fits = selectors.is_layer(asked) or isinstance(asked, (os.PathLike, list, tuple))
    if isinstance(asked, str):
        fits = asked in words or asked.endswith((".weights.h5", ".keras"))
    if not fits:
        raise ValueError(
            'reference is "initial", "previous", a .weights.h5 or .keras file, a model or a list '
            f"of arrays; received {asked!r}."
        )


def is_word(asked: Any, word: str) -> bool:
    """Tells whether `asked` is the word; arrays and models have an equality of their own."""
    return isinstance(asked, str) and asked == word


def find(
    asked: Any, model: Any, view: View, step: int, stored: Path | None
) -> tuple[Reference, str]:
    """Gives the reference that was asked for, and what it is in words.

    Args:
        asked: what `check` takes.
        model: whose weights are compared.
        view: what is watched of it, from `views.look`.
        step: of the run, now.
        stored: for ``"initial"``, the reference that the run began with.

    Raises:
        ValueError: where it does not fit the model.
        FileNotFoundError: where there is no such file.
    """
    if is_word(asked, "previous"):
        return Reference.taken(view.watched), "the previous record"
    if is_word(asked, "initial"):
        if stored is not None:
            return load(stored, view.sites)
        about = f"the weights at step {step}, the first seen" if step else "the initial weights"
        return Reference.taken(view.watched), about
    return given(asked, model, view.sites, view.every)


def given(
    asked: Any, model: Any, chosen: Sequence[Site], every: Sequence[Site]
) -> tuple[Reference, str]:
    """Gives the reference that arrays, a file or another model hold, and what it is in words.

    Raises:
        ValueError: where it does not fit the model.
        FileNotFoundError: where there is no such file.
    """
    if isinstance(asked, (list, tuple)):
        return of_arrays(asked, chosen, every), "the given arrays"
    if isinstance(asked, (str, os.PathLike)):
        path = Path(asked)
        return of_file(path, model, chosen, every), f"the file {path.name}"
    return of_model(asked, chosen, every), f"the model {asked.name}"


def load(path: Path, watched: Sequence[Site]) -> tuple[Reference, str]:
    """Reads what `Reference.save` wrote, for the weights in `watched`.

    Returns:
        The reference, and what it is in words.

    Raises:
        ValueError: where it can not be read, lacks a weight or has another shape for one.
    """
    values, about = reference_file.load(
        path, {site.path: tuple(site.weight.shape) for site in watched}
    )
    found = [
        value.view(arrays.BFLOAT16) if dtype == "bfloat16" else value for value, dtype in values
    ]
    return Reference.of(Watched([site.weight for site in watched]), found), about


def of_arrays(values: Sequence[Any], chosen: Sequence[Site], every: Sequence[Site]) -> Reference:
    """Gives a reference from arrays: one for each chosen weight, or one for each of the model's.

    Raises:
        ValueError: for another number of arrays, or one of another shape.
    """
    if len(values) not in (len(chosen), len(every)):
        raise ValueError(
            f"The reference has {len(values)} arrays; the {len(chosen)} watched weights are "
            f"{[(site.path, tuple(site.weight.shape)) for site in chosen[:20]]}"
            f"{'...' if len(chosen) > 20 else ''}. Pass one array for each."
        )
    if len(values) != len(chosen):
        position = {id(site.weight): i for i, site in enumerate(every)}
        values = [values[position[id(site.weight)]] for site in chosen]
    found = [arrays.host(getattr(value, "value", value)) for value in values]
    for site, array in zip(chosen, found, strict=True):
        _check_shape(site, array, "The given reference", "Pass one array for each weight in order.")
    return Reference.of(Watched([site.weight for site in chosen]), found)


def of_model(other: Any, chosen: Sequence[Site], every: Sequence[Site]) -> Reference:
    """Gives a reference from the weights of another model, in its order.

    Raises:
        ValueError: as `of_arrays`.
    """
    return of_arrays([site.weight for site in sites(other)], chosen, every)


def of_file(path: Path, model: Any, chosen: Sequence[Site], every: Sequence[Site]) -> Reference:
    """Gives a reference from a ``.keras`` model or the model's own ``.weights.h5``.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file does not fit the model.
    """
    if not path.name.endswith((".weights.h5", ".keras")):
        raise ValueError(
            f"A reference file is a .weights.h5 or .keras file; received {str(path)!r}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no reference file {str(path)!r}.")
    if path.suffix == ".keras":
        return of_model(keras.saving.load_model(path, compile=False), chosen, every)
    return _of_weights_file(path, model, chosen)


def _of_weights_file(path: Path, model: Any, chosen: Sequence[Site]) -> Reference:
    """Loads the file into the model, and puts the model's own values back.

    The model alone knows how its layers store what they hold.
    """
    wanted = {id(site.weight): i for i, site in enumerate(chosen)}
    values: list[Any] = [None] * len(chosen)
    variables = list(model.variables)
    before: list[Any] = [np.array(arrays.host(variable.value)) for variable in variables]
    try:
        model.load_weights(path, objects_to_skip=[getattr(model, "optimizer", None)])
    except (ValueError, KeyError) as error:
        raise ValueError(f"The reference {path} does not fit the model: {error}") from error
    finally:
        for i, variable in enumerate(variables):
            if id(variable) in wanted:
                values[wanted[id(variable)]] = np.array(arrays.host(variable.value))
            variable.assign(before[i])
            before[i] = None  # one copy at a time
    return Reference.of(Watched([site.weight for site in chosen]), values)


def _check_shape(site: Site, array: Any, source: str, advice: str) -> None:
    expected = tuple(site.weight.shape)
    if tuple(array.shape) != expected:
        raise ValueError(
            f"{source} has the shape {tuple(array.shape)} for the weight {site.path!r}, whose "
            f"shape is {expected}. {advice}"
        )
