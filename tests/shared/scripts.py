"""Scripts in processes of their own that need not import Keras first."""

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Scripts:
    """Runs scripts, each in a fork of one process that has imported Keras."""

    def __init__(self, process):
        self._process = process

    def run(self, *scripts):
        """What each of ``(code, *arguments)`` ended with, all run at once."""
        request = [[textwrap.dedent(code), *map(str, arguments)] for code, *arguments in scripts]
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        return [
            subprocess.CompletedProcess(arguments, status, stdout, stderr)
            for arguments, (status, stdout, stderr) in zip(scripts, json.loads(answer), strict=True)
        ]


def compiled_once(folder):
    """Settings with which JAX compiles equal steps once, and finds them in `folder`."""
    return {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


@contextlib.contextmanager
def started():
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "workers" / "forks.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Scripts(process)
