"""Where a run came from: code, command, machine, packages, data; no part of what it is.

What looks like a secret is stored as ``"(redacted)"``.
"""

import fnmatch
import functools
import hashlib
import importlib.metadata
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

from keras_layerwise.storage.values import UNKNOWN

REDACTED = "(redacted)"
REDACT = (
    "*access*key*",
    "*api*key*",
    "*auth*token*",
    "*authorization*",
    "*credential*",
    "*passphrase*",
    "*passwd*",
    "*password*",
    "*private*key*",
    "*secret*",
    "*token",
    "*token[!s]*",
    *(f"*{kind}*tokens*" for kind in ("access", "api", "bearer", "hf", "hub", "refresh")),
    "tokens",
)
"""Globs, upper or lower case, of names whose values are not stored; ``max_tokens`` is."""

# Modules whose versions matter, with the package that has the version.
_PACKAGES = {
    "PIL": "pillow",
    "datasets": "datasets",
    "grain": "grain",
    "jax": "jax",
    "keras": "keras",
    "keras_hub": "keras-hub",
    "keras_layerwise": "keras-layerwise",
    "keras_tuner": "keras-tuner",
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tensorboard": "tensorboard",
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "tensorflow-datasets",
    "torch": "torch",
    "transformers": "transformers",
}
_T = TypeVar("_T")
_CHUNK = 1 << 24
_GIT_SECONDS = 5


def provenance(redact: Iterable[str] = REDACT) -> dict[str, Any]:
    """Reads where this process comes from, as plain values.

    Args:
        redact: globs of names whose values are replaced by ``"(redacted)"``.

    Returns:
        ``command``, ``host``, ``process``, ``packages``. What git knows is asked beside, by `git`.

    Example:

    >>> found = provenance()
    >>> found["process"] == os.getpid(), "numpy" in found["packages"]
    (True, True)
    """
    return {
        "command": shlex.join(redacted_arguments(sys.argv, redact)),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "packages": {
            package: _version(package)
            for module, package in sorted(_PACKAGES.items())
            if module in sys.modules
        },
    }


def redacted(values: Any, redact: Iterable[str] = REDACT) -> Any:
    """Gives nested plain values with what has a secret's name replaced.

    Example:

    >>> redacted({"lr": 0.1, "hub": {"API_TOKEN": "abc"}, "max_tokens": 5})
    {'lr': 0.1, 'hub': {'API_TOKEN': '(redacted)'}, 'max_tokens': 5}
    """
    globs = tuple(redact)
    if isinstance(values, Mapping):
        return {
            key: REDACTED if is_secret(key, globs) else redacted(value, globs)
            for key, value in values.items()
        }
    if isinstance(values, list):
        return [redacted(value, globs) for value in values]
    return _without_login(values) if isinstance(values, str) else values


def redacted_arguments(arguments: Sequence[str], redact: Iterable[str] = REDACT) -> list[str]:
    """Gives a command line with the values of secrets replaced.

    Example:

    >>> redacted_arguments(["train.py", "--api-key", "abc", "--hub_token=abc", "--lr=0.1"])
    ['train.py', '--api-key', '(redacted)', '--hub_token=(redacted)', '--lr=0.1']
    """
    globs, found, is_value = tuple(redact), [], False
    for argument in arguments:
        name, sign, _ = argument.partition("=")
        secret = is_secret(name.lstrip("-").replace("-", "_"), globs)
        if is_value and not argument.startswith("-"):
            found.append(REDACTED)
        elif secret and sign:
            found.append(f"{name}={REDACTED}")
        else:
            found.append(_without_login(argument))
        is_value = secret and not sign and argument.startswith("-")
    return found


def is_secret(name: str, redact: Iterable[str] = REDACT) -> bool:
    """Tells whether a value of this name is not to be stored."""
    lower = str(name).lower()
    return any(fnmatch.fnmatchcase(lower, glob.lower()) for glob in redact)


def _without_login(text: str) -> str:
    """Gives an address without the user and password in it."""
    return re.sub(r"(\w+://)[^/\s@]+@", rf"\1{REDACTED}@", text)


def git(redact: Iterable[str] = REDACT) -> "Future[dict[str, Any]]":
    """Asks git beside the training: a large tree takes seconds.

    Args:
        redact: globs of names whose values are replaced by ``"(redacted)"``.

    Returns:
        A future of ``commit``, ``dirty`` and ``repository``; of an empty one outside of
        a repository.
    """
    globs = tuple(redact)
    return in_background(lambda: _git(globs), {})


def _git(redact: tuple[str, ...]) -> dict[str, Any]:
    script = Path(sys.argv[0]).resolve().parent if sys.argv[0] else Path.cwd()

    def ask(*words: str) -> str | None:
        try:
            run = subprocess.run(  # noqa: S603 - the words are this module's own
                ["git", "--no-optional-locks", *words],  # noqa: S607 - wherever it is installed
                cwd=script if script.is_dir() else None,
                capture_output=True,
                text=True,
                timeout=_GIT_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError, UnicodeError):
            return None
        return run.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return {}
    status = ask("status", "--porcelain", "--untracked-files=no")
    remote = ask("remote", "get-url", "origin")
    found: dict[str, Any] = {"commit": commit, "dirty": UNKNOWN if status is None else bool(status)}
    if remote:
        found["repository"] = redacted(remote, redact)
    return found


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def data_fingerprint(data: Any) -> "Future[str]":
    """Fingerprints arrays in a thread of its own: SHA-256 of dtypes, shapes and bytes.

    The bytes are read where they are, without a copy; a thread that hashes
    leaves the interpreter to others.

    Args:
        data: arrays, or a nesting of them.

    Returns:
        A future of the hexadecimal digest; of ``"unknown"`` for what is no array.

    Example:

    >>> one = data_fingerprint({"x": np.arange(3), "y": np.ones(3)})
    >>> one.result() == data_fingerprint({"x": np.arange(3), "y": np.ones(3)}).result()
    True
    """
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    return in_background(lambda: _digest(leaves), UNKNOWN)


def in_background(question: Callable[[], _T], otherwise: _T) -> "Future[_T]":
    """Answers in a thread that does not keep the process alive; `otherwise` where it fails."""
    future: Future[_T] = Future()

    def work() -> None:
        try:
            future.set_result(question())
        except Exception:  # what cannot be read as an array
            future.set_result(otherwise)

    threading.Thread(target=work, name="keras_layerwise provenance", daemon=True).start()
    return future


def _digest(leaves: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for leaf in leaves:
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            return UNKNOWN
        array = leaf if isinstance(leaf, np.ndarray) else keras.ops.convert_to_numpy(leaf)
        if array.dtype.hasobject:
            return UNKNOWN
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str}{list(array.shape)}".encode())
        raw = array.reshape(-1).view(np.uint8)
        for start in range(0, raw.size, _CHUNK):
            digest.update(raw[start : start + _CHUNK].data)
    return digest.hexdigest()
