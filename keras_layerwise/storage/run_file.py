"""The mark of a run in its directory: which steps it has made, and when it was last alive.

::

    <log_dir>/run.json

A run claims its directory by making this file, or by making the directory: of
two processes that ask for the same place at the same time one gets it.
"""

import contextlib
import json
import os
import re
import socket
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from keras_layerwise.storage import schema, stores
from keras_layerwise.storage.files import make_folder, replacing, sync_folder

RUN_FILE = "run.json"
_TRACES = (schema.RECORD_FILE, schema.RECORD_DIR, schema.DRIFT_DIR, schema.RATES_DIR)


def now() -> str:
    """Gives the time as records have it: ISO 8601, UTC.

    Example:
    >>> now().endswith("+00:00")
    True
    """
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Mark:
    """What a later process must know to tell whether it goes on with a run.

    Attributes:
        first: step count of the model's optimizers when the run began.
        last: the largest step count seen.
        count: the step count when this was written: less than `last` where the model
            was compiled anew.
        step: the run's own step then.
        ahead: how many steps a checkpoint of a run that was killed may be ahead
            of `last`: those of an epoch; None where that is not known.
        ended: whether the training that was last at it came to its end.
        started: when the run began.
        seen: when it was last alive.
        host: the machine that wrote this.
        process: its process number there.
    """

    first: int
    last: int
    count: int
    step: int
    ahead: int | None = None
    ended: bool = False
    started: str = field(default_factory=now)
    seen: str = field(default_factory=now)
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)

    def holds(self, count: int) -> bool:
        """Tells whether a model whose optimizers made `count` steps can be of this run.

        Example:
        >>> Mark(first=0, last=10, count=10, step=10, ended=True).holds(10)
        True
        >>> Mark(first=10, last=20, count=20, step=20, ended=True).holds(10)
        False
        """
        if count <= self.first:
            return False
        if self.ended:
            return count <= self.last
        return self.ahead is None or count <= self.last + self.ahead


def read(directory: Path) -> Mark | None:
    """Gives the mark in `directory`; None where there is none that can be read."""
    try:
        data = json.loads((directory / RUN_FILE).read_text("utf-8"))
        mark = Mark(**data)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    numbers = (
        mark.first,
        mark.last,
        mark.count,
        mark.step,
        0 if mark.ahead is None else mark.ahead,
    )
    is_sound = all(type(number) is int for number in numbers) and isinstance(mark.seen, str)
    return mark if is_sound else None


def write(directory: Path, mark: Mark) -> None:
    """Replaces the mark in `directory`, so that a reader sees the old or the new, whole.

    Raises:
        OSError: where the directory cannot be written.
    """
    with replacing(directory / RUN_FILE) as file:
        file.write(_content(mark))


def _content(mark: Mark) -> bytes:
    return json.dumps(asdict(mark), sort_keys=True).encode()


def holds_run(directory: Path) -> bool:
    """Tells whether `directory` is, or was by an earlier version, some run's."""
    return any((directory / name).exists() for name in (RUN_FILE, *_TRACES))


def runs(asked: Path) -> list[Path]:
    """Gives the directories of the runs in `asked`, `asked`-2, -3 …, the newest first.

    Raises:
        OSError: where the store of `asked` cannot be reached.
    """
    with stores.asked(asked):
        found = {1: asked} if holds_run(asked) else {}
        if asked.parent.is_dir():
            numbered = re.compile(re.escape(asked.name) + r"-([1-9]\d*)")
            for path in asked.parent.iterdir():
                match = numbered.fullmatch(path.name)
                if match and int(match[1]) > 1 and holds_run(path):
                    found[int(match[1])] = path
    return [found[number] for number in sorted(found, reverse=True)]


def claim(asked: Path, mark: Mark) -> Path:
    """Takes `asked` for a new run, or the first of `asked`-2, -3 … that nobody has.

    Raises:
        OSError: where the directory cannot be made or written.
    """
    if stores.is_remote(asked):
        return _claim_remote(asked, mark)
    make_folder(asked)
    if not holds_run(asked):
        with contextlib.suppress(FileExistsError), (asked / RUN_FILE).open("x"):
            write(asked, mark)
            return asked
    number = 2
    while True:
        path = asked.with_name(f"{asked.name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            sync_folder(path.parent)
            write(path, mark)
            return path
        number += 1


def _claim_remote(asked: Path, mark: Mark) -> Path:
    path, number = asked, 1
    with stores.asked(asked):
        while holds_run(path) or not stores.claim(path / RUN_FILE, _content(mark)):
            number += 1
            path = asked.with_name(f"{asked.name}-{number}")
    return path
