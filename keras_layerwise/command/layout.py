"""Text that fits a console of 80 columns and a page of 60 lines."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size

from keras_layerwise.storage.values import as_text
from keras_layerwise.tables import printable

WIDTH = 80
_MARGIN = "  "


@dataclass(frozen=True)
class Section:
    """Lines under a title; a section without lines is left out, unless it is the first."""

    title: str
    lines: list[str]
    is_chief: bool = False  # cut after the others


def page(sections: Iterable[Section], limit: int | None) -> list[str]:
    """Lays out the lines of all sections; the longest are cut so that `limit` lines are enough.

    Example:
    >>> for line in page([Section("a", ["1", "2", "3", "4"]), Section("b", ["5"])], limit=5):
    ...     print(line)
    a
    1
    .. 3 more lines: --full
    b
    5
    """
    first, *rest = sections
    shown = [first, *(section for section in rest if section.lines)]
    sizes = [len(section.lines) for section in shown]
    for chief, least in ((False, 4), (True, 4), (False, 1), (True, 1)):
        for most in range(max(sizes), least - 1, -1):
            if limit is None or len(sizes) + sum(sizes) <= limit:
                break
            sizes = [
                min(size, most) if section.is_chief == chief else size
                for section, size in zip(shown, sizes, strict=True)
            ]
    found = []
    for section, size in zip(shown, sizes, strict=True):
        found.append(section.title)
        if size == len(section.lines):
            found += section.lines
            continue
        margin = _MARGIN if section.lines[0].startswith(" ") else ""
        found += section.lines[: size - 1]
        found.append(f"{margin}.. {len(section.lines) - size + 1} more lines: --full")
    return found


def fitted(text: str, width: int = WIDTH) -> str:
    """Gives `text` on one line of at most `width` columns, the end left out where it is longer.

    Example:
    >>> fitted("a long line", 8)
    'a long..'
    """
    text = printable(text)
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 2, 0)).rstrip() + ".."


def placed(before: str, path: str, after: str = "") -> str:
    """Gives a line about `path`, whose beginning is left out where the line would be too long.

    Example:
    >>> line = placed("2 runs in ", "/data/" + "deep/" * 20 + "sweep", ".")
    >>> print(line, len(line))
    2 runs in ..p/deep/deep/deep/deep/deep/deep/deep/deep/deep/deep/deep/deep/sweep. 80
    """
    path = printable(path)
    room = WIDTH - cell_len(before) - cell_len(after)
    if cell_len(path) <= room:
        return f"{before}{path}{after}"
    while path and cell_len(path) > room - 2:
        path = path[1:]
    return f"{before}..{path}{after}"


def pairs(values: Iterable[tuple[str, Any]]) -> list[str]:
    """Names with their values, as many on a line as there is room for.

    Example:
    >>> pairs([("epochs", 3), ("optimizer", "Adam")])
    ['  epochs 3; optimizer Adam']
    """
    lines: list[str] = []
    for name, value in values:
        item = fitted(f"{name} {as_text(value)}", WIDTH - len(_MARGIN) - 1)
        if lines and cell_len(lines[-1]) + 2 + cell_len(item) <= WIDTH:
            lines[-1] += f"; {item}"
        else:
            lines.append(_MARGIN + item)
    return lines


def wrapped(text: str) -> list[str]:
    """Gives `text` over as many lines as it needs, the later ones set in."""
    return textwrap.wrap(
        printable(text), WIDTH, initial_indent=_MARGIN, subsequent_indent=2 * _MARGIN
    )


def columns(
    heads: Sequence[str], rows: Sequence[Sequence[Any]], width: int = WIDTH
) -> tuple[list[str], int]:
    r"""Gives a table without lines: the first column to the left, the others to the right.

    Args:
        heads: the columns' names; what is too wide for a column is cut.
        rows: one cell per column.
        width: columns that do not fit in are left out, the last first.

    Returns:
        The lines, the heads first, and how many columns were left out.

    Example:
    >>> lines, _ = columns(["run", "loss"], [["a", 0.25], ["b2", 1]])
    >>> print(*lines, sep="\n")
      run  loss
      a    0.25
      b2      1
    """
    texts = [[printable(cell(value)) for value in row] for row in (heads, *rows)]
    widths = [max(cell_len(row[i]) for row in texts) for i in range(len(heads))]
    # The first column gives way, down to a half, before another is left out.
    rest = sum(2 + size for size in widths[1:])
    widths[0] = min(widths[0], max(width - len(_MARGIN) - rest, width // 2))
    kept, used = 1, len(_MARGIN) + widths[0]
    while kept < len(widths) and used + 2 + widths[kept] <= width:
        used += 2 + widths[kept]
        kept += 1
    lines = []
    for row in texts:
        first = set_cell_size(fitted(row[0], widths[0]), widths[0])
        others = [" " * (widths[i] - cell_len(row[i])) + row[i] for i in range(1, kept)]
        lines.append((_MARGIN + "  ".join([first, *others])).rstrip())
    return lines, len(widths) - kept


def cell(value: Any) -> str:
    """Gives a value as short text; ``-`` where there is none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def folded(names: Sequence[str], room: int) -> str:
    """Gives some names and how many more there are, in at most about `room` columns.

    Example:
    >>> folded(["a", "b", "c"], 5)
    'a, b and 1 more'
    """
    shown: list[str] = []
    for name in names:
        if shown and len(", ".join([*shown, name])) > room:
            break
        shown.append(name)
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
