"""The weights that drift is measured from, laid out for many measurements."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_layerwise.backend import arrays
from keras_layerwise.backend.arrays import Piece, Watched
from keras_layerwise.drift import devices
from keras_layerwise.drift import sums as columns
from keras_layerwise.drift.sums import Sums
from keras_layerwise.storage import reference as reference_file


class Reference:
    """What the watched weights are compared with.

    Attributes:
        pieces: the reference, laid out as the weights are.
        own: the sums of the reference alone.
    """

    def __init__(self, pieces: list[list[Piece]]) -> None:
        # Positions of the weight and of the piece in it: on the processor, and elsewhere.
        every = [(i, j) for i, found in enumerate(pieces) for j in range(len(found))]
        self._host = [(i, j) for i, j in every if isinstance(pieces[i][j].array, np.ndarray)]
        self._elsewhere = [
            (i, j) for i, j in every if not isinstance(pieces[i][j].array, np.ndarray)
        ]
        self._comparison = columns.Comparison([pieces[i][j].array for i, j in self._host])
        for (i, j), array in zip(self._host, self._comparison.references, strict=True):
            pieces[i][j] = pieces[i][j]._replace(array=array)
        self._owners = np.array([i for i, _ in self._host + self._elsewhere], np.intp)
        self.pieces = pieces
        self.own = self._measure(pieces)

    @classmethod
    def taken(cls, watched: Watched) -> "Reference":
        """Gives the weights as they are now."""
        return cls([[arrays.copied(piece) for piece in pieces] for pieces in watched.read()])

    @classmethod
    def of(cls, watched: Watched, values: Sequence[Any]) -> "Reference":
        """Keeps given values, which have the shapes of the weights."""
        return cls(
            [
                [arrays.placed(piece, np.asarray(value)) for piece in pieces]
                for pieces, value in zip(watched.read(), values, strict=True)
            ]
        )

    def extended(self, old: Watched, new: Watched) -> "Reference":
        """Takes this reference to other variables; those it does not know are taken as they are."""
        known = {id(v): pieces for v, pieces in zip(old.variables, self.pieces, strict=True)}
        return Reference(
            [
                known.get(id(variable)) or [arrays.copied(piece) for piece in pieces]
                for variable, pieces in zip(new.variables, new.read(), strict=True)
            ]
        )

    def measure(self, watched: Watched) -> Sums:
        """Gives the sums of each weight against its reference."""
        return self._measure(watched.read())

    def _measure(self, weights: list[list[Piece]]) -> Sums:
        sums = self._comparison.measure([weights[i][j].array for i, j in self._host])
        if self._elsewhere:
            pairs = [(weights[i][j].array, self.pieces[i][j].array) for i, j in self._elsewhere]
            sums = np.concatenate([sums, devices.measure(pairs)])
        return devices.over_processes(columns.merge(sums, self._owners, len(weights)))

    def advance(self, watched: Watched, sums: Sums) -> None:
        """Makes the weights as they are now, whose `sums` are known, the reference."""
        for pieces, current in zip(self.pieces, watched.read(), strict=True):
            for i, piece in enumerate(current):
                if isinstance(piece.array, np.ndarray):
                    np.copyto(pieces[i].array, piece.array)
                else:
                    pieces[i] = arrays.copied(piece)
        self.own = sums

    def difference(self, watched: Watched, position: int) -> npt.NDArray[Any]:
        """Gives the elements of w - w₀ that this process holds, flat."""
        pairs = zip(watched.read()[position], self.pieces[position], strict=True)
        parts = [
            arrays.host(w.array).reshape(-1) - arrays.host(r.array).reshape(-1) for w, r in pairs
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def is_whole(self, watched: Watched) -> bool:
        """Tells whether this process holds all of the reference, rather than some shards."""
        sizes = [sum(int(np.prod(p.array.shape)) for p in pieces) for pieces in self.pieces]
        return sizes == [int(np.prod(variable.shape)) for variable in watched.variables]

    def save(self, path: Path, watched: Watched, paths: Sequence[str], about: str) -> None:
        """Writes the reference to a file, which is there whole or not at all.

        Args:
            path: an ``.npz`` file.
            watched: the variables, for their shapes.
            paths: their paths in the model.
            about: what the reference is, in words.
        """
        values = zip(paths, watched.variables, self.pieces, strict=True)
        reference_file.save(
            path,
            about,
            (
                (name, variable.dtype, _plain(arrays.whole(variable.shape, pieces)))
                for name, variable, pieces in values
            ),
        )


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Gives `array` in a dtype that the .npy format knows."""
    return array.view(np.uint16) if array.dtype == arrays.BFLOAT16 else array
