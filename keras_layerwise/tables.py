"""Tables for the console, in the look of ``model.summary()``."""

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import rich.box
import rich.console
import rich.markup
import rich.table

if TYPE_CHECKING:  # the command line makes tables without Keras
    from keras_layerwise.optimizer.rules import Assignment


def render(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as text; cells are shown as they are, never as markup.

    Args:
        title: a line above the table.
        columns: headings; one that begins with ``#`` is a number and set to the right.
        rows: one cell per column.
    """
    table = rich.table.Table(box=rich.box.SQUARE, header_style="bold", show_lines=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.startswith("#") else "left"
        heading = rich.markup.escape(column.removeprefix("#"))
        table.add_column(heading, justify=justify, overflow="fold", max_width=60)
    for row in rows:
        table.add_row(*(rich.markup.escape(printable(str(cell))) for cell in row))
    # As wide as it needs: a figure that is broken over two lines is misread.
    console = rich.console.Console(file=io.StringIO(), width=10_000, no_color=True)
    width = console.measure(table).maximum
    with console.capture() as capture:
        console.print(table, width=width)
    lines = capture.get().splitlines()
    return "\n".join([title, *(line.rstrip() for line in lines)])


def printable(text: str) -> str:
    r"""`text` with what would steer the terminal written out.

    Example:
    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def number(value: float | None) -> str:
    """A setting as text, ``-`` for none."""
    return "-" if value is None else f"{value:.6g}"


def assignment_table(
    name: str, assignments: "Sequence[Assignment]", per_weight: bool = False
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
                _each(rule for member in members for rule in (member.rule or "-").split(" | ")),
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
    return f"{table}\n Trained parameters: {trained:,}\n Frozen parameters: {frozen:,}"


def _each(values: Iterable[str]) -> str:
    """The distinct values of a layer's weights, in order."""
    return " / ".join(dict.fromkeys(values))
