"""Sides of a comparison in processes of their own, which take their turns when they are told."""

import contextlib
import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.measure import uncollected


@dataclass(frozen=True)
class Built:
    """One side of a comparison.

    Attributes:
        step: takes the given number of steps and waits for the device.
        first: seconds that its first step took.
        variables: of its optimizer, None where that is not Keras's.
    """

    step: Callable[[int], None]
    first: float
    variables: int | None


@contextlib.contextmanager
def apart(build: Callable[[str], Built], sides: Sequence[str]) -> Iterator[dict[str, Built]]:
    """Builds each side in a new process, and ends the processes with the block.

    Args:
        build: makes a side of its name; it is pickled.
        sides: the names.

    Raises:
        EOFError: where a process ended; it has printed why.
    """
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        ends: dict[str, Connection] = {}
        for side in sides:
            ends[side], other = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(other, build, side), daemon=True)
            process.start()
            other.close()
            stack.callback(process.join)
            stack.callback(ends[side].close)
        yield {side: Built(functools.partial(_ask, end), *end.recv()) for side, end in ends.items()}


def _ask(end: Connection, steps: int) -> None:
    end.send(steps)
    end.recv()


def _serve(end: Connection, build: Callable[[str], Built], side: str) -> None:
    built = build(side)
    end.send((built.first, built.variables))
    with uncollected(), contextlib.suppress(EOFError):  # the other end is closed
        while True:
            built.step(end.recv())
            end.send(None)
