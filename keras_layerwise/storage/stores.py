"""Directories that a URL names, such as ``s3://bucket/run``: through fsspec, as paths.

A store keeps whole objects: one that is written takes its place at once, and
none can be appended to. So a file is made on this machine, and sent as a whole.
"""

import contextlib
import io
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

# One slash is what pathlib leaves of two.
_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+):/(?P<two>/)?", re.IGNORECASE)
_PIECE = 1 << 20


def is_url(directory: Any) -> bool:
    """Tells whether a directory is named by a URL; ``C:/`` names a drive.

    Example:
    >>> is_url("gs://bucket/run"), is_url("C:/run"), is_url("run")
    (True, False, False)
    """
    return _URL.match(str(directory)) is not None


def is_remote(path: Path) -> bool:
    """Tells whether `path` came from `path_of`."""
    return not isinstance(path, Path)


def path_of(url: str) -> Path:
    """Gives a directory of a store, with what is used of ``pathlib.Path``.

    Raises:
        OSError: where nothing is installed that reads and writes it.
    """
    match = _URL.match(url)
    if match and not match["two"]:
        url = f"{match['protocol']}://{url[match.end() :]}"
    try:
        from upath import UPath

        # Other processes write there too.
        path = UPath(url, use_listings_cache=False)
        path.fs  # noqa: B018 - imports what the protocol needs
    except (ImportError, ValueError, TypeError) as error:
        raise OSError(
            f"A run can not be written to {url!r}: {error}. Install what reads and writes it: "
            "keras-layerwise[remote], and s3fs for s3:// or gcsfs for gs://. Or give a local "
            "directory."
        ) from error
    return cast(Path, path)


def own_file() -> io.FileIO:
    """Makes a file of this machine without a name, to be sent."""
    return tempfile.TemporaryFile(buffering=0)


def send(file: BinaryIO | io.FileIO, path: Path) -> None:
    """Puts the whole content of `file` in place of `path`.

    Raises:
        OSError: where the store does not take it.
    """
    file.seek(0)
    with asked(path), path.open("wb") as target:
        shutil.copyfileobj(file, target, _PIECE)


@contextlib.contextmanager
def asked(path: Path) -> Iterator[None]:
    """Turns what a store raises into an ``OSError``: each store has exceptions of its own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(
            f"{path} can not be reached: {error}. Check the address, and the credentials and "
            "the network that its store needs; or give a local directory."
        ) from error


def claim(path: Path, content: bytes) -> bool:
    """Makes an object unless there is one of that name; returns whether it did.

    Raises:
        OSError: where the store does not take it.
    """
    with asked(path):
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        except (NotImplementedError, ValueError):  # a store that makes nothing exclusively
            if path.exists():
                return False
            path.write_bytes(content)
    return True
