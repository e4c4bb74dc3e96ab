"""A disk that remembers what was written, synced and renamed, and what a power cut leaves of it."""

import contextlib
import io
import os
import stat
import threading
from pathlib import Path

from keras_layerwise.storage import files


class Disk:
    """Records what is done to the files below a folder.

    Each operation is a tuple: its kind, then its arguments. A file is known by
    a number from its creation on, since it may be renamed.
    """

    def __init__(self, root, monkeypatch):
        self.root = Path(root)
        self.operations = []
        self._lock = threading.RLock()
        self._handles = {}
        real = {name: getattr(files, name) for name in ("create", "sync", "sync_folder")}

        def create(path):
            number = self.note("create", self._key(path))
            file = _Recorded(path, self, number)
            self._handles[file.fileno()] = number
            return file

        def sync(handle):
            real["sync"](handle)
            if not stat.S_ISDIR(os.fstat(handle).st_mode):  # those say it with their path
                self.note("sync", self._handles[handle])

        def sync_folder(path):
            real["sync_folder"](path)
            self.note("sync_folder", self._key(path))

        monkeypatch.setattr(files, "create", create)
        monkeypatch.setattr(files, "sync", sync)
        monkeypatch.setattr(files, "sync_folder", sync_folder)
        replace, unlink, mkdir = os.replace, Path.unlink, Path.mkdir

        def replaced(old, new):
            replace(old, new)
            self.note("replace", self._key(old), self._key(new))

        def unlinked(path, missing_ok=False):
            unlink(path, missing_ok=missing_ok)
            self.note("unlink", self._key(path))

        def made(path, *arguments, **options):
            mkdir(path, *arguments, **options)
            self.note("mkdir", self._key(path))

        monkeypatch.setattr(files.os, "replace", replaced)
        monkeypatch.setattr(Path, "unlink", unlinked)
        monkeypatch.setattr(Path, "mkdir", made)

    def note(self, kind, *arguments):
        """Records an operation; its number."""
        with self._lock:
            self.operations.append((kind, *arguments))
            return len(self.operations) - 1

    def _key(self, path):
        return Path(os.path.relpath(path, self.root))

    def cuts(self):
        """Every state that the power may have been cut in.

        Yields:
            What was noted before the cut, how much of the rest was kept, and
            the files: contents by path.
        """
        for length in range(1, len(self.operations) + 1):
            done = self.operations[:length]
            yield done, "whole", _replay(done).live()
            if done[-1][0] == "write":
                _, number, at, data = done[-1]
                for part in {0, 1, len(data) // 2, len(data) - 1}:
                    torn = [*done[:-1], ("write", number, at, data[:part])]
                    yield done, f"torn at {part}", _replay(torn).live()
            yield done, "lost", _replay(done).kept(names="synced")
            yield done, "lost behind names", _replay(done).kept(names="all")


class _Recorded(io.FileIO):
    def __init__(self, path, disk, number):
        super().__init__(path, "xb")
        self._disk, self._number = disk, number

    def write(self, data):
        at = self.tell()
        written = super().write(data)
        self._disk.note("write", self._number, at, bytes(data[:written]))
        return written

    def truncate(self, size=None):
        self._disk.note("truncate", self._number, size)
        return super().truncate(size)


class _State:
    """Files and names as they are for processes, and as they are on the disk."""

    def __init__(self):
        self.contents, self.synced = {}, {}
        self.names, self.synced_names = {}, {}
        self.folders = {Path()}
        self.synced_folders = {Path()}

    def live(self):
        return {path: bytes(self.contents[number]) for path, number in self.names.items()}

    def kept(self, names):
        """After the cache is gone; names may have reached the disk before what they name."""
        chosen = self.names if names == "all" else self.synced_names
        folders = self.folders if names == "all" else self.synced_folders
        return {
            path: bytes(self.synced.get(number, b""))
            for path, number in chosen.items()
            if set(path.parents) <= folders
        }


def _replay(operations):
    state = _State()
    for number, (kind, *arguments) in enumerate(operations):
        if kind == "create":
            state.names[arguments[0]] = number
            state.contents[number] = bytearray()
        elif kind == "write":
            file, at, data = arguments
            content = state.contents[file]
            content.extend(bytes(max(at - len(content), 0)))
            content[at : at + len(data)] = data
        elif kind == "truncate":
            del state.contents[arguments[0]][arguments[1] :]
        elif kind == "sync":
            state.synced[arguments[0]] = bytes(state.contents[arguments[0]])
        elif kind == "sync_folder":
            folder = arguments[0]
            inside = {p: n for p, n in state.names.items() if p.parent == folder}
            outside = {p: n for p, n in state.synced_names.items() if p.parent != folder}
            state.synced_names = outside | inside
            state.synced_folders |= {p for p in state.folders if p.parent == folder}
        elif kind == "replace":
            state.names[arguments[1]] = state.names.pop(arguments[0])
        elif kind == "unlink":
            state.names.pop(arguments[0], None)
        elif kind == "mkdir":
            state.folders.add(arguments[0])
    return state


@contextlib.contextmanager
def laid_out(contents, folder):
    """Puts the files of a state into an empty folder, and takes them away again."""
    made = []
    for path, content in contents.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        made.append(target)
    yield folder
    for target in made:
        target.unlink()
