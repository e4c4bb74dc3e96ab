"""Scripts in processes of their own that need not import Keras first."""

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras_layerwise

ROOT = Path(__file__).parents[2]
WORKERS = Path(__file__).parent / "workers"


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
        request = [[textwrap.dedent(code), *map(str, arguments)] for code, *arguments in scripts]
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        return [
            subprocess.CompletedProcess(arguments, status, stdout, stderr)
            for arguments, (status, stdout, stderr) in zip(scripts, json.loads(answer), strict=True)
        ]


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
