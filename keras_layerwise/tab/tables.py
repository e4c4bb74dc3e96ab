"""Every record of a topic as comma-separated lines, made while they are sent."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from keras_layerwise.storage import schema
from keras_layerwise.tab.columns import Records

_AT_ONCE = 256  # lines that leave together

Reading = Callable[[], tuple[Sequence[schema.Row], Records]]


def lines(header: Sequence[str], runs: Sequence[tuple[str, Reading]]) -> Iterator[bytes]:
    """Makes a line per run and step and a field per row, one run in memory at a time.

    Args:
        header: names of the rows that are wanted.
        runs: each run's name and what reads its records; a run that can not
            be read is one line that says so.
    """
    place = {name: i for i, name in enumerate(header)}
    yield _encoded([["run", "step", *map(cell, header)]])
    for name, read in runs:
        try:
            rows, records = read()
        except Exception as error:  # the answer has begun: the line is the only way to say it
            yield _encoded([[cell(name), cell(f"can not be read: {error}")]])
            continue
        own = [i for i, row in enumerate(rows) if row.name in place]
        to = [place[rows[i].name] for i in own]
        for start in range(0, len(records.steps), _AT_ONCE):
            part = records.values[start : start + _AT_ONCE]
            wide = np.full((len(part), len(header)), np.nan, np.float32)
            wide[:, to] = part[:, own]
            steps = records.steps[start : start + _AT_ONCE].tolist()
            yield _encoded(
                [cell(name), step, *map(_number, line)]
                for step, line in zip(steps, wide, strict=True)
            )


def cell(text: str) -> str:
    """Gives a name that no spreadsheet takes for a formula.

    Example:
    >>> cell("=1+1")
    "'=1+1"
    """
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _encoded(rows: object) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)  # type: ignore[arg-type]
    return out.getvalue().encode(errors="backslashreplace")


def _number(value: np.float32) -> str:
    return "" if np.isnan(value) else str(value)
