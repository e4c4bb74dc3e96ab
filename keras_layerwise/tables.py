"""Tables for the console, in the look of ``model.summary()``."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import rich.box
import rich.console
import rich.markup
import rich.table

from keras_layerwise.rules import Assignment


def render(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as text; cells are shown as they are, never as markup.

    Args:
        title: a line above the table.
        columns: headings; one that begins with ``#`` is a number and set to the right.
        rows: one cell per column.
    """
    table = rich.table.Table(box=rich.box.SQUARE, header_style="bold", show_lines=False)
    for column in columns:
        justify = "right" if column.startswith("#") else "left"
        table.add_column(
            rich.markup.escape(column.removeprefix("#")), justify=justify, overflow="fold"
        )
    for row in rows:
        table.add_row(*(rich.markup.escape(str(cell)) for cell in row))
    text = io.StringIO()
    console = rich.console.Console(file=text, width=_width(), no_color=True, highlight=False)
    console.print(rich.markup.escape(title), highlight=False)
    console.print(table)
    return text.getvalue().rstrip("\n")


def _width() -> int:
    return max(80, rich.console.Console().width)


def number(value: float | None) -> str:
    """A setting as text, ``-`` for none."""
    return "-" if value is None else f"{value:.6g}"


def assignment_table(
    name: str, assignments: Sequence[Assignment], per_weight: bool = False
) -> str:  # fmt: skip
    """The table of ``LayerwiseOptimizer.summary``."""
    groups: dict[str, list[Assignment]] = {}
    for assignment in assignments:
        groups.setdefault(assignment.path if per_weight else assignment.layer, []).append(
            assignment
        )
    rows = []
    for key, members in groups.items():
        rows.append(
            (
                key,
                f"{sum(member.parameters for member in members):,}",
                _each(member.rule or "-" for member in members),
                _each(
                    "own" if member.multiplier is None else number(member.multiplier)
                    for member in members
                ),
                _each(number(member.learning_rate) for member in members),
                _each(number(member.weight_decay) for member in members),
                _each("yes" if member.frozen else "no" for member in members),
            )
        )
    columns = (
        "Weight" if per_weight else "Layer",
        "#Parameters",
        "Rule",
        "#Multiplier",
        "#Rate",
        "#Decay",
        "Frozen",
    )
    frozen = sum(a.parameters for a in assignments if a.frozen)
    trained = sum(a.parameters for a in assignments) - frozen
    table = render(f'Optimizer: "{name}"', columns, rows)
    return (
        f"{table}\n"
        f" Trained parameters: {trained:,}\n Frozen parameters: {frozen:,}"
    )


def _each(values: Iterable[str]) -> str:
    """The distinct values of a layer's weights, in order."""
    return " / ".join(dict.fromkeys(values))
