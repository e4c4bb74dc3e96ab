"""The file that keeps the weights a run began with, for when it is resumed.

A zip of ``.npy`` members, one a weight, with a header: which is which, their
dtypes, and what the reference is in words. NumPy has no bfloat16: its bits are
kept as uint16.
"""

import json
import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_layerwise.storage import files
from keras_layerwise.storage.values import parsed

_HEADER = "header.json"
_MOST = 1 << 26  # bytes of a header; a million weights take less
# What the readers of NumPy and of zip files raise for what is damaged.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    UserWarning,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class StoredReferenceError(ValueError):
    """A file that is no stored reference, or none for this model."""


def save(path: Path, about: str, weights: Iterable[tuple[str, str, npt.NDArray[Any]]]) -> None:
    """Writes a reference, which is there whole or not at all.

    Args:
        path: an ``.npz`` file.
        about: what the reference is, in words.
        weights: of each weight its path in the model, its dtype and its value.
    """
    paths, dtypes = [], []
    with files.replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for i, (name, dtype, value) in enumerate(weights):
            paths.append(name)
            dtypes.append(dtype)
            with archive.open(f"{i}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)
        header = {"paths": paths, "about": about, "dtypes": dtypes}
        archive.writestr(_HEADER, json.dumps(header))


def load(
    path: Path, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[tuple[npt.NDArray[Any], str]], str]:
    """Reads the weights that are asked for.

    Args:
        path: what `save` wrote.
        shapes: the shape of each weight by its path in the model.

    Returns:
        Value and dtype of each weight in `shapes`, and what the reference is in words.

    Raises:
        StoredReferenceError: (a ``ValueError``) where the file can not be read,
            lacks a weight or has another shape for one.
    """
    advice = f"Remove {path} to begin again from the present weights, or use another log_dir."
    damaged = f"{path} is no stored reference, or half of one. {advice}"
    try:
        with (
            path.open("rb") as file,
            zipfile.ZipFile(file) as archive,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error")  # of NumPy, on a header that it would not write
            header = _header(archive)
            values = []
            for name, shape in shapes.items():
                if name not in header["paths"]:
                    raise StoredReferenceError(
                        f"The stored reference {path} has no weight {name!r} of shape {shape}. "
                        f"{advice}"
                    )
                i = header["paths"][name]
                found = _shape(archive, i)
                if found != shape:
                    raise StoredReferenceError(
                        f"{path} has the shape {found} for the weight {name!r}, whose shape is "
                        f"{shape}. {advice}"
                    )
                value, dtype = _value(archive, i), header["dtypes"][i]
                if dtype == "bfloat16" and value.dtype != np.uint16:
                    raise ValueError("a bfloat16 weight that is not kept as its bits")
                values.append((value, dtype))
            return values, header["about"]
    except StoredReferenceError:
        raise
    except _DAMAGE as error:
        raise StoredReferenceError(damaged) from error


def _header(archive: zipfile.ZipFile) -> dict[str, Any]:
    if archive.getinfo(_HEADER).file_size > _MOST:
        raise ValueError("a header that is too long")
    header = parsed(archive.read(_HEADER))
    paths, dtypes, about = header["paths"], header["dtypes"], header["about"]
    texts = [*paths, *dtypes, about]
    if len(paths) != len(dtypes) or not all(isinstance(text, str) for text in texts):
        raise ValueError("a header of another form")
    return {"paths": {name: i for i, name in enumerate(paths)}, "dtypes": dtypes, "about": about}


def _shape(archive: zipfile.ZipFile, position: int) -> tuple[int, ...]:
    """Gives the shape that a member says it has, of which it holds every element."""
    with archive.open(f"{position}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(member)
    size = archive.getinfo(f"{position}.npy").file_size
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > size:
        raise ValueError("a member that does not hold what it says")
    return tuple(shape)


def _value(archive: zipfile.ZipFile, position: int) -> npt.NDArray[Any]:
    with archive.open(f"{position}.npy") as member:
        return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
