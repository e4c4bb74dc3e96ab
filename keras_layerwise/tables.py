"""Tables for the console, in the look of ``model.summary()``, and for notebooks."""

import html
import io
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import rich.box
import rich.console
import rich.markup
import rich.table


def render(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Gives a table as text; cells are shown as they are, never as markup.

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


def render_html(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Gives the table of `render` for a notebook; cells are shown as they are, never as HTML.

    Example:
    >>> render_html("a < b", ["#n"], [[1]])[:29]
    '<table><caption>a &lt; b</cap'
    """

    def line(kind: str, texts: Sequence[Any]) -> str:
        styled = [
            f'<{kind} style="text-align:{"right" if column.startswith("#") else "left"}">'
            f"{html.escape(str(text))}</{kind}>"
            for column, text in zip(columns, texts, strict=True)
        ]
        return f"<tr>{''.join(styled)}</tr>"

    head = line("th", [column.removeprefix("#") for column in columns])
    body = "".join(line("td", row) for row in rows)
    return (
        f"<table><caption>{html.escape(title)}</caption><thead>{head}</thead>"
        f"<tbody>{body}</tbody></table>"
    )


def printable(text: str) -> str:
    r"""Gives `text` with what would steer the terminal written out.

    Example:
    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def number(value: float | None) -> str:
    """Gives a setting as text, ``-`` for none."""
    return "-" if value is None else f"{value:.6g}"
