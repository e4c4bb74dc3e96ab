"""Scripts in processes of their own that need not import Keras first."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import keras_layerwise

ROOT = Path(__file__).parents[2]
WORKERS = Path(__file__).parent / "workers"
# What a script begins with that imports the package for the first time, and Keras before it.
UNLOADED = """
import sys

for name in [name for name in sys.modules if name.startswith("keras_layerwise")]:
    del sys.modules[name]
"""


def load_package():
    """Loads every module of the package, so that no fork has to."""
    for name in keras_layerwise.__all__:
        getattr(keras_layerwise, name)


class Scripts:
    """Runs scripts, each in a fork of one process that has imported Keras."""

    def __init__(self, process):
        self._process = process

    def succeed(self, *scripts):
        """What each of ``(code, *arguments)`` wrote, all run at once."""
        done = self.run(*scripts)
        assert not any(one.returncode for one in done), [one.stderr[-4000:] for one in done]
        return [one.stdout for one in done]

    def run(self, *scripts):
        """What each of ``(code, *arguments)`` ended with, all run at once."""
        self._start(*scripts)
        return [
            subprocess.CompletedProcess(arguments, status, stdout, stderr)
            for arguments, (status, stdout, stderr) in zip(scripts, self._answer(), strict=True)
        ]

    @contextlib.contextmanager
    def running(self, code, *arguments):
        """Runs a script, and nothing else, until the block ends; gives whether it still runs."""
        (process,) = self._start((code, *arguments))

        def runs():  # the answer comes when it has ended
            return not select.select([self._process.stdout], [], [], 0)[0]

        try:
            yield runs
        finally:
            if runs():
                os.kill(process, signal.SIGTERM)
            self._answer()

    def _start(self, *scripts):
        request = [[textwrap.dedent(code), *map(str, arguments)] for code, *arguments in scripts]
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def started():
    with subprocess.Popen(
        [sys.executable, str(WORKERS / "forks.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Scripts(process)
