"""Names of rows that do not depend on the process: those of the run's record."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from keras_layerwise.storage.schema import Row


def stable(name: str, names: Mapping[str, str]) -> str:
    """Gives a row's name with the layer's name in the record, where that is another.

    Args:
        name: a row, a layer's path, perhaps with a weight or a remark after it.
        names: paths of layers in the process that trained to those in the record.

    Example:
    >>> stable("dense_3/kernel", {"dense_3": "dense"})
    'dense/kernel'
    >>> stable("dense_3 (non-trainable)", {"dense_3": "dense"})
    'dense (non-trainable)'
    """
    path, remark, rest = name.partition(" (")
    end = len(path)
    while end > 0:
        if path[:end] in names:
            return names[path[:end]] + path[end:] + remark + rest
        end = path.rfind("/", 0, end)
    return name


def renamed(rows: Sequence[Row], names: Mapping[str, str]) -> tuple[Row, ...]:
    """Gives `rows` under their stable names; as they are where two would become one."""
    if not names:
        return tuple(rows)
    found = [
        replace(row, name=stable(row.name, names), part=_part(row.part, names)) for row in rows
    ]
    return tuple(found) if len({row.name for row in found}) == len(found) else tuple(rows)


def _part(part: str, names: Mapping[str, str]) -> str:
    """Gives a part with its block's name in the record: Keras made that name up as well."""
    kind, number, name = [*part.split("/", 2), "", ""][:3]
    return f"{kind}/{number}/{stable(name, names)}" if name else part
