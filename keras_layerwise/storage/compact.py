"""Settings of many layers and weights in little room: what is alike is written once."""

import json
from collections.abc import Mapping
from typing import Any

_MOST = 1 << 26  # characters that a file may stand for
_PLACES = (("architecture", "layers"), ("architecture", "weights"), ("training", "assignments"))


def packed(groups: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the groups of a record with the settings of layers and weights written once.

    Layers with the same settings become one entry, ``{"of": names, "settings": {...}}``; where
    an earlier entry has the same names of settings, ``"as"`` is its number and the
    settings are those that differ.

    Example:
    >>> layers = {"a": {"class": "ReLU", "slope": 0}, "b": {"class": "ReLU", "slope": 1}}
    >>> packed({"architecture": {"layers": layers}})["architecture"]["layers"][1]
    {'of': ['b'], 'as': 0, 'settings': {'slope': 1}}
    """
    found = dict(groups)
    for group, name in _PLACES:
        members = found.get(group, {}).get(name)
        if isinstance(members, Mapping) and all(isinstance(m, Mapping) for m in members.values()):
            found[group] = {**found[group], name: _packed(members)}
    return found


def unpacked(groups: Mapping[str, Any]) -> dict[str, Any]:
    """Gives back what `packed` was given.

    Raises:
        ValueError: for what `packed` has not written.

    Example:
    >>> groups = {"architecture": {"layers": {"a": {"units": 1}, "b": {"units": 1}}}}
    >>> unpacked(packed(groups)) == groups
    True
    """
    found = dict(groups)
    for group, name in _PLACES:
        settings = found.get(group)
        if isinstance(settings, dict) and isinstance(settings.get(name), list):
            found[group] = {**settings, name: _unpacked(settings[name], f"{group}/{name}")}
    return found


def _packed(members: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    alike: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for name, settings in members.items():
        alike.setdefault(json.dumps(settings), (settings, []))[1].append(name)
    entries: list[dict[str, Any]] = []
    first: dict[tuple[Any, ...], tuple[int, Mapping[str, Any]]] = {}
    for settings, names in alike.values():
        form = str(settings.get("class")), tuple(settings)
        if form in first:
            number, like = first[form]
            other = {key: v for key, v in settings.items() if not _is_same(v, like[key])}
            entries.append({"of": names, "as": number, "settings": other})
        else:
            first[form] = len(entries), settings
            entries.append({"of": names, "settings": settings})
    return entries


def _is_same(one: Any, other: Any) -> bool:
    if type(one) is type(other) and isinstance(one, (str, int, type(None))):
        return bool(one == other)  # as most are, sooner than as text
    return json.dumps(one) == json.dumps(other)


def _unpacked(entries: list[Any], place: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    each: list[dict[str, Any]] = []
    size = 0
    try:
        for entry in entries:
            settings, number = {**entry["settings"]}, entry.get("as")
            if number is not None:
                settings = {**each[range(len(each))[number]], **settings}
            each.append(settings)
            size += len(json.dumps(settings)) * (1 + len(entry["of"]))
            if size > _MOST:
                raise ValueError("it is too long")
            for name in entry["of"]:
                if not isinstance(name, str) or name in found:
                    raise ValueError("a name that is no text, or there twice")
                found[name] = settings
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{place} can not be read: {error!r:.80}") from None
    return found
