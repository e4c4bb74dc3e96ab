"""The watched weights, read where they lie, and the reference they are compared with.

Weights on the processor are read in place, through NumPy views of the
backend's own memory; those on an accelerator are reduced there, and of a
sharded weight every device reduces its own shard, so only sums travel.
"""

import functools
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import ml_dtypes
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_layerwise.drift import statistics
from keras_layerwise.model.structure import Site, sites

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_CHUNK = 1 << 22  # elements that PyTorch, which does not fuse, reduces at a time on a device


class Piece(NamedTuple):
    """A weight, or one shard of it.

    Attributes:
        array: NumPy's on the processor, else the backend's own.
        index: the part of the weight that it is.
    """

    array: Any
    index: Any


class Watched:
    """The variables to be compared, in order."""

    def __init__(self, variables: Sequence[Any]) -> None:
        self.variables = tuple(variables)
        self._read = _READERS[keras.backend.backend()](self.variables)

    def read(self) -> list[list[Piece]]:
        """The pieces of each variable that this process holds.

        They are views: let go of them before the next training step, which
        could otherwise not update in place.
        """
        return self._read()


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
        self._comparison = statistics.Comparison([pieces[i][j].array for i, j in self._host])
        for (i, j), array in zip(self._host, self._comparison.references, strict=True):
            pieces[i][j] = pieces[i][j]._replace(array=array)
        self._owners = np.array([i for i, _ in self._host + self._elsewhere], np.intp)
        self.pieces = pieces
        self.own = self._measure(pieces)

    @classmethod
    def taken(cls, watched: Watched) -> "Reference":
        """The weights as they are now."""
        return cls([[_copied(piece) for piece in pieces] for pieces in watched.read()])

    @classmethod
    def of(cls, watched: Watched, values: Sequence[Any]) -> "Reference":
        """Given values, which have the shapes of the weights."""
        return cls(
            [
                [_placed(piece, np.asarray(value)) for piece in pieces]
                for pieces, value in zip(watched.read(), values, strict=True)
            ]
        )

    def extended(self, old: Watched, new: Watched) -> "Reference":
        """This reference for other variables; those it does not know are taken as they are."""
        known = {id(v): pieces for v, pieces in zip(old.variables, self.pieces, strict=True)}
        return Reference(
            [
                known.get(id(variable)) or [_copied(piece) for piece in pieces]
                for variable, pieces in zip(new.variables, new.read(), strict=True)
            ]
        )

    def measure(self, watched: Watched) -> statistics.Sums:
        """The sums of each weight against its reference."""
        return self._measure(watched.read())

    def _measure(self, weights: list[list[Piece]]) -> statistics.Sums:
        sums = self._comparison.measure([weights[i][j].array for i, j in self._host])
        if self._elsewhere:
            pairs = [(weights[i][j].array, self.pieces[i][j].array) for i, j in self._elsewhere]
            sums = np.concatenate([sums, _on_devices(pairs)])
        return _over_processes(statistics.merge(sums, self._owners, len(weights)))

    def advance(self, watched: Watched, sums: statistics.Sums) -> None:
        """Makes the weights as they are now, whose `sums` are known, the reference."""
        for pieces, current in zip(self.pieces, watched.read(), strict=True):
            for i, piece in enumerate(current):
                if isinstance(piece.array, np.ndarray):
                    np.copyto(pieces[i].array, piece.array)
                else:
                    pieces[i] = _copied(piece)
        self.own = sums

    def difference(self, watched: Watched, position: int) -> npt.NDArray[Any]:
        """The elements of w - w₀ that this process holds, flat."""
        pairs = zip(watched.read()[position], self.pieces[position], strict=True)
        parts = [_host(w.array).reshape(-1) - _host(r.array).reshape(-1) for w, r in pairs]
        return np.concatenate(parts) if parts else np.zeros(0)

    def is_whole(self, watched: Watched) -> bool:
        """Whether this process holds all of the reference, rather than some shards."""
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
        header = {
            "paths": list(paths),
            "about": about,
            "dtypes": [v.dtype for v in watched.variables],
        }
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with partial.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
                archive.writestr("header.json", json.dumps(header))
                for i, (variable, pieces) in enumerate(
                    zip(watched.variables, self.pieces, strict=True)
                ):
                    with archive.open(f"{i}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(
                            member, _plain(_whole(variable.shape, pieces)), allow_pickle=False
                        )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def load(path: Path, watched: Sequence[Site]) -> tuple[Reference, str]:
    """Reads what `Reference.save` wrote, for the weights in `watched`.

    Returns:
        The reference, and what it is in words.

    Raises:
        ValueError: where it can not be read, lacks a weight or has another shape for one.
    """
    advice = f"Remove {path} to begin again from the present weights, or use another log_dir."
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no stored reference, or half of one. {advice}")
    with np.load(path, allow_pickle=False) as archive:
        header = json.loads(archive["header.json"])
        positions = {name: i for i, name in enumerate(header["paths"])}
        values = []
        for site in watched:
            if site.path not in positions:
                raise ValueError(
                    f"The stored reference {path} has no weight {site.path!r} of shape "
                    f"{tuple(site.weight.shape)}. {advice}"
                )
            i = positions[site.path]
            value = archive[f"{i}"]
            if header["dtypes"][i] == "bfloat16":
                value = value.view(BFLOAT16)
            _check_shape(site, value, str(path), advice)
            values.append(value)
    return Reference.of(Watched([site.weight for site in watched]), values), header["about"]


def of_arrays(values: Sequence[Any], chosen: Sequence[Site], every: Sequence[Site]) -> Reference:
    """A reference from arrays: one for each chosen weight, or one for each of the model's.

    Raises:
        ValueError: for another number of arrays, or one of another shape.
    """
    if len(values) not in (len(chosen), len(every)):
        raise ValueError(
            f"The reference has {len(values)} arrays; the {len(chosen)} watched weights are "
            f"{[(site.path, tuple(site.weight.shape)) for site in chosen[:20]]}"
            f"{'...' if len(chosen) > 20 else ''}. Pass one array for each."
        )
    if len(values) != len(chosen):
        position = {id(site.weight): i for i, site in enumerate(every)}
        values = [values[position[id(site.weight)]] for site in chosen]
    arrays = [_host(getattr(value, "value", value)) for value in values]
    for site, array in zip(chosen, arrays, strict=True):
        _check_shape(site, array, "The given reference", "Pass one array for each weight in order.")
    return Reference.of(Watched([site.weight for site in chosen]), arrays)


def of_model(other: Any, chosen: Sequence[Site], every: Sequence[Site]) -> Reference:
    """A reference from the weights of another model, in its order.

    Raises:
        ValueError: as `of_arrays`.
    """
    return of_arrays([site.weight for site in sites(other)], chosen, every)


def of_file(path: Path, model: Any, chosen: Sequence[Site], every: Sequence[Site]) -> Reference:
    """A reference from a ``.keras`` model or the model's own ``.weights.h5``.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file does not fit the model.
    """
    if not path.name.endswith((".weights.h5", ".keras")):
        raise ValueError(
            f"A reference file is a .weights.h5 or .keras file; received {str(path)!r}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no reference file {str(path)!r}.")
    if path.suffix == ".keras":
        return of_model(keras.saving.load_model(path, compile=False), chosen, every)
    return _of_weights_file(path, model, chosen)


def _of_weights_file(path: Path, model: Any, chosen: Sequence[Site]) -> Reference:
    """Loads the file into the model, and puts the model's own values back.

    The model alone knows how its layers store what they hold.
    """
    wanted = {id(site.weight): i for i, site in enumerate(chosen)}
    values: list[Any] = [None] * len(chosen)
    variables = list(model.variables)
    before: list[Any] = [np.array(_host(variable.value)) for variable in variables]
    try:
        model.load_weights(path, objects_to_skip=[model.optimizer])
    except (ValueError, KeyError) as error:
        raise ValueError(f"The reference {path} does not fit the model: {error}") from error
    finally:
        for i, variable in enumerate(variables):
            if id(variable) in wanted:
                values[wanted[id(variable)]] = np.array(_host(variable.value))
            variable.assign(before[i])
            before[i] = None  # one copy at a time
    return Reference.of(Watched([site.weight for site in chosen]), values)


def _check_shape(site: Site, array: Any, source: str, advice: str) -> None:
    expected = tuple(site.weight.shape)
    if tuple(array.shape) != expected:
        raise ValueError(
            f"{source} has the shape {tuple(array.shape)} for the weight {site.path!r}, whose "
            f"shape is {expected}. {advice}"
        )


def _on_devices(pairs: list[tuple[Any, Any]]) -> statistics.Sums:
    """The sums of arrays on accelerators, computed there."""
    sums = np.zeros((len(pairs), len(statistics.COLUMNS)))
    sums[:, statistics.COUNT] = [int(np.prod(w.shape)) for w, _ in pairs]
    device_sums = _device_sums()
    if keras.backend.backend() == "torch":
        parts, owners = [], []
        for i, (w, r) in enumerate(pairs):
            chunks = zip(w.reshape(-1).split(_CHUNK), r.reshape(-1).split(_CHUNK), strict=True)
            for a, b in chunks:
                parts.append((a.numel(), device_sums([a], [b])))
                owners.append(i)
        rows = np.zeros((len(parts), len(statistics.COLUMNS)))
        rows[:, statistics.COUNT] = [count for count, _ in parts]
        rows[:, 1:] = ops.convert_to_numpy(ops.concatenate([part for _, part in parts]))
        return statistics.merge(rows, np.array(owners, np.intp), len(pairs))
    places: dict[str, list[int]] = {}
    for i, (w, _) in enumerate(pairs):
        places.setdefault(str(getattr(w, "sharding", None) or w.device), []).append(i)
    pending = [
        (at, device_sums([pairs[i][0] for i in at], [pairs[i][1] for i in at]))
        for at in places.values()
    ]
    for at, rows in pending:
        sums[at, 1:] = ops.convert_to_numpy(rows)
    return sums


@functools.cache
def _device_sums() -> Callable[[list[Any], list[Any]], Any]:
    """The sums of `statistics.COLUMNS` without the count, compiled where the backend can."""

    def one(w: Any, r: Any) -> Any:
        w, r = ops.cast(w, "float32"), ops.cast(r, "float32")
        d = w - r
        return ops.stack(
            [
                ops.sum(d),
                ops.sum(d * d),
                ops.max(ops.abs(d)),
                ops.sum(w),
                ops.sum(ops.square(w - ops.mean(w))),
                ops.sum(w * r),
                ops.sum(ops.cast(ops.logical_not(ops.isfinite(w)), "float32")),
            ]
        )

    def every(ws: list[Any], rs: list[Any]) -> Any:
        return ops.stack([one(w, r) for w, r in zip(ws, rs, strict=True)])

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(every)  # type: ignore[no-any-return]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(every, jit_compile=True)  # type: ignore[no-any-return]
    return every


def _over_processes(sums: statistics.Sums) -> statistics.Sums:
    """Merges what the processes of a distributed JAX run found, each for its own shards."""
    if keras.backend.backend() != "jax":
        return sums
    import jax

    if jax.process_count() == 1:
        return sums
    from jax.experimental import multihost_utils

    # As bits, because JAX would round float64.
    bits = np.ascontiguousarray(sums).view(np.uint32)
    found = np.asarray(multihost_utils.process_allgather(bits)).view(np.float64)
    owners = np.tile(np.arange(len(sums)), jax.process_count())
    return statistics.merge(found.reshape(-1, sums.shape[1]), owners, len(sums))


def _read_tensorflow(variables: Sequence[Any]) -> Callable[[], list[list[Piece]]]:
    import tensorflow as tf

    bfloat16 = [variable.dtype == "bfloat16" for variable in variables]

    @tf.function  # type: ignore[untyped-decorator]
    def values() -> list[Any]:
        # NumPy has no bfloat16, so its bits are passed.
        return [
            tf.bitcast(variable.value, tf.uint16) if special else tf.identity(variable.value)
            for variable, special in zip(variables, bfloat16, strict=True)
        ]

    # To find the trace anew at each call takes as long as half of the reads.
    concrete = values.get_concrete_function()

    def read() -> list[list[Piece]]:
        return [
            [Piece(_of_tensorflow(tensor, special), ())]
            for tensor, special in zip(concrete(), bfloat16, strict=True)
        ]

    return read


def _of_tensorflow(tensor: Any, bfloat16: bool) -> Any:
    if "CPU" in tensor.device:
        array = np.asarray(memoryview(tensor))
        return array.view(BFLOAT16) if bfloat16 else array
    import tensorflow as tf

    return tf.bitcast(tensor, tf.bfloat16) if bfloat16 else tensor


def _read_jax(variables: Sequence[Any]) -> Callable[[], list[list[Piece]]]:
    def pieces(array: Any) -> list[Piece]:
        if len(array.sharding.device_set) == 1:
            return [Piece(_of_jax(array), ())]
        return [
            Piece(_of_jax(shard.data), shard.index)
            for shard in array.addressable_shards
            if shard.replica_id == 0
        ]

    return lambda: [pieces(variable.value) for variable in variables]


def _of_jax(array: Any) -> Any:
    (device,) = array.sharding.device_set
    return np.asarray(array) if device.platform == "cpu" else array


def _read_torch(variables: Sequence[Any]) -> Callable[[], list[list[Piece]]]:
    return lambda: [[Piece(_of_torch(variable.value.detach()), ())] for variable in variables]


def _of_torch(tensor: Any) -> Any:
    if tensor.device.type != "cpu":
        return tensor
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(BFLOAT16)
    return tensor.numpy()


_READERS: dict[str, Callable[[Sequence[Any]], Callable[[], list[list[Piece]]]]] = {
    "tensorflow": _read_tensorflow,
    "jax": _read_jax,
    "torch": _read_torch,
}


def _copied(piece: Piece) -> Piece:
    array = piece.array
    if isinstance(array, np.ndarray):
        return piece._replace(array=array.copy())
    if keras.backend.backend() == "torch":
        return piece._replace(array=array.clone())
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        # A training step may give the weight's own memory away.
        return piece._replace(array=jnp.copy(array))
    import tensorflow as tf

    return piece._replace(array=tf.raw_ops.DeepCopy(x=array))


def _placed(piece: Piece, value: npt.NDArray[Any]) -> Piece:
    """`value`'s part that `piece` is, in its dtype and where it lies."""
    part = value[piece.index]
    if isinstance(piece.array, np.ndarray):
        return piece._replace(array=np.array(part, dtype=piece.array.dtype, order="C"))
    if keras.backend.backend() == "jax":
        import jax

        part = np.asarray(part, dtype=piece.array.dtype)
        return piece._replace(array=jax.device_put(part, piece.array.sharding))
    if keras.backend.backend() == "torch":
        import torch

        tensor = torch.as_tensor(np.asarray(part, np.float32))
        return piece._replace(array=tensor.to(piece.array))
    import tensorflow as tf

    with tf.device(piece.array.device):
        return piece._replace(array=tf.cast(tf.constant(part), piece.array.dtype))


def _whole(shape: Sequence[int], pieces: list[Piece]) -> npt.NDArray[Any]:
    """A weight's reference as one array on the processor."""
    if len(pieces) == 1 and pieces[0].index == ():
        return _host(pieces[0].array)
    first = _host(pieces[0].array)
    whole = np.empty(tuple(shape), first.dtype)
    for piece in pieces:
        whole[piece.index] = _host(piece.array)
    return whole


def _host(array: Any) -> npt.NDArray[Any]:
    return array if isinstance(array, np.ndarray) else np.asarray(ops.convert_to_numpy(array))


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`array` in a dtype that the .npy format knows."""
    return array.view(np.uint16) if array.dtype == BFLOAT16 else array
