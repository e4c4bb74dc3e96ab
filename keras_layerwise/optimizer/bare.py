"""Layers that own weights and none that can ever train, as a bare `BatchNormalization`.

No rule can select them. They follow the layer that holds them, or the part of
an outline that is frozen: each weight of such a part names them, in files too.
"""

from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from dataclasses import replace
from typing import Any

from keras_layerwise.model import selectors
from keras_layerwise.model.structure import Sites
from keras_layerwise.optimizer.rules import ever_trainable
from keras_layerwise.optimizer.setting import Setting


def note(
    settings: MutableSequence[Setting],
    position: Mapping[int, int],
    sites: Sites,
    asked: Iterable[Any],
) -> None:
    """Has the weights of frozen parts name the bare layers in these parts.

    Args:
        settings: what holds, by position.
        position: of each weight, by its ``id``.
        sites: every weight of the model.
        asked: the selectors by which weights are frozen.
    """
    parts = [part for selector in asked for part in _parts(selector)]
    layers = list(enumerate(_bare(sites).items())) if parts else []
    for part in parts:
        inside = {id(layer) for layer in part.layers}
        named = [(place, path) for place, (path, layer) in layers if id(layer) in inside]
        for weight in part.weights if named else ():
            if id(weight) in position:
                i = position[id(weight)]
                settings[i] = beside(settings[i], named)


def frozen(
    settings: Sequence[Setting], weights: Sequence[Any], sites: Sites, still: set[int]
) -> list[Any]:
    """Gives the bare layers of which every weight that names them is frozen.

    Args:
        settings: what holds, by position.
        weights: the weights, by position.
        sites: every weight of the model.
        still: the ``id`` of each weight that is frozen.
    """
    follows: dict[tuple[int, str], bool] = {}
    for weight, setting in zip(weights, settings, strict=True):
        for layer in setting.bare:
            is_still = id(weight) in still or not weight.trainable
            follows[layer] = follows.get(layer, True) and is_still
    layers = _bare(sites) if follows else {}
    places = list(layers.values())
    # By path, or, where Keras has given its layers other names since, by place.
    return [
        layers[path] if path in layers else places[place]
        for (place, path), is_still in follows.items()
        if is_still and (path in layers or place < len(places))
    ]


def beside(setting: Setting, layers: Iterable[tuple[int, str]]) -> Setting:
    """Gives a setting that also names these layers."""
    return replace(setting, bare=tuple(dict.fromkeys((*setting.bare, *layers))))


def _bare(sites: Sites) -> dict[str, Any]:
    found = {site.layer_path: site.layer for site in sites if site.layer is not None}
    for i in ever_trainable(sites):
        found.pop(sites[i].layer_path, None)
    return found


def _parts(selector: Any) -> list[Any]:
    if isinstance(selector, (list, tuple)):
        return [part for member in selector for part in _parts(member)]
    return [selector] if selectors.is_part(selector) else []
