"""Files that outlive a power cut: whole or not there, and on the disk when they say so."""

import contextlib
import errno
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from keras_layerwise.storage import stores

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
    if stores.is_remote(path):
        with stores.own_file() as file:
            yield cast(BinaryIO, file)
            stores.send(file, path)
        return
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


def place(directory: str | os.PathLike[str]) -> Path:
    """Gives a directory, from wherever the program may go later: of this machine, or of a store.

    Raises:
        OSError: for a URL of a store that nothing is installed for.
    """
    if stores.is_url(directory):
        return stores.path_of(str(directory))
    return Path(directory).absolute()


def local(path: str | os.PathLike[str]) -> Path:
    """Gives a path of this machine, from wherever the program may go later.

    Raises:
        OSError: for a URL, which would become a directory called ``gs:``.
    """
    if stores.is_url(path):
        raise OSError(f"This is written to a local directory; received {str(path)!r}.")
    return Path(path).absolute()


def create(path: Path) -> io.FileIO:
    """Makes a new file, written without a buffer in between; of a store, what `sent` is to send."""
    if stores.is_remote(path):
        return stores.own_file()
    return io.FileIO(path, "xb")


def make_folder(path: Path) -> None:
    """Makes `path` and the folders above it, on the disk; there already is no error."""
    if stores.is_remote(path):  # which has names, and no folders
        return
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


def names_in(path: Path) -> list[str]:
    """Gives the names in a folder; none where there is no such folder."""
    try:
        return [found.name for found in path.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system can tell."""
    if stores.is_remote(path):
        return
    with contextlib.suppress(OSError):  # Windows opens no folder; the names are there regardless
        handle = os.open(path, os.O_RDONLY)
        try:
            sync(handle)
        finally:
            os.close(handle)
