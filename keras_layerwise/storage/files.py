"""Files that outlive a power cut: whole or not there, and on the disk when they say so."""

import contextlib
import errno
import io
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EROFS)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to be written in place of `path`: a reader sees the old or the new, whole.

    The content is on the disk before it takes the name, and the name is on the
    disk at the end. Where the block raises, `path` stays as it was.

    Example:
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "file"
    >>> with replacing(path) as file:
    ...     _ = file.write(b"content")
    >>> path.read_bytes()
    b'content'
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with io.BufferedWriter(create(temporary)) as file:
            yield file
            file.flush()
            sync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - one name for all that changes a folder
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def local(directory: str | os.PathLike[str]) -> Path:
    """A directory of this machine, from wherever the program may go later.

    Raises:
        OSError: for a URL, which would become a directory called ``gs:``.
    """
    # One slash is what pathlib leaves of two.
    if re.match(r"[a-z][a-z0-9+.-]+:/", os.fspath(directory), re.IGNORECASE):
        raise OSError(
            f"A run is written to a local directory; received {os.fspath(directory)!r}. "
            "Mount the storage, or copy the directory there."
        )
    return Path(directory).absolute()


def create(path: Path) -> io.FileIO:
    """A new file, written without a buffer in between."""
    return io.FileIO(path, "xb")


def make_folder(path: Path) -> None:
    """Makes `path` and the folders above it, on the disk; there already is no error."""
    missing = []
    folder = path
    while not folder.is_dir() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync(handle: int) -> None:
    """Waits until a file is on the disk, where its file system can tell."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system can tell."""
    with contextlib.suppress(OSError):  # Windows opens no folder; the names are there regardless
        handle = os.open(path, os.O_RDONLY)
        try:
            sync(handle)
        finally:
            os.close(handle)
