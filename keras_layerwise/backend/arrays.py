"""Reads, copies and reduces weights where their memory lies, on each backend.

Weights in the processor's memory are read in place, through NumPy views of the
backend's own buffers. Weights on an accelerator stay there as the backend's
arrays. Of a sharded weight each process reads its own shards.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import ml_dtypes
import numpy as np
import numpy.typing as npt
from keras import ops

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_SMALL = 1 << 12  # elements of a weight that is read together with others
_CHUNK = 1 << 22  # elements that PyTorch, which does not fuse, reduces at a time on a device


class Piece(NamedTuple):
    """Holds a weight, or one shard of it.

    Attributes:
        array: NumPy's in the processor's memory, else the backend's own.
        index: which part of the weight it is, as an index into the whole.
    """

    array: Any
    index: Any


class Watched:
    """Reads variables, again and again, without copying them.

    Args:
        variables: Keras variables.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        self.variables = tuple(variables)
        self._read = _READERS[keras.backend.backend()](self.variables)

    def read(self) -> list[list[Piece]]:
        """Gives the pieces of each variable that this process holds.

        They are views: let go of them before the next training step, which
        could otherwise not update in place.
        """
        return self._read()


def view(variable: Any) -> npt.NDArray[Any]:
    """Gives a weight that this process holds entirely, without a copy in the processor's memory.

    Let go of it before the next training step.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        bfloat16 = variable.dtype == "bfloat16"
        value = variable.value  # to convert a variable takes half as long again
        is_plain = isinstance(value, tf.Variable)
        tensor = value.value() if is_plain else tf.convert_to_tensor(value)
        return host(_of_tensorflow(tf.bitcast(tensor, tf.uint16) if bfloat16 else tensor, bfloat16))
    if keras.backend.backend() == "torch":
        return host(_of_torch(variable.value.detach()))
    return np.asarray(variable.value)


def rows(variable: Any, step: int) -> npt.NDArray[Any]:
    """Gives every `step`-th row of a weight; of a device, those rows alone are copied."""
    value = variable.value
    if keras.backend.backend() == "torch":
        is_near = value.device.type == "cpu"
    elif keras.backend.backend() == "jax":
        is_near = all(device.platform == "cpu" for device in value.sharding.device_set)
    else:
        is_near = "CPU" in value.device
    if is_near:
        return view(variable)[::step]
    found: npt.NDArray[Any] = keras.ops.convert_to_numpy(value[::step])
    return found


def copied(piece: Piece) -> Piece:
    """Copies `piece`; the copy lies on the same device."""
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


def placed(piece: Piece, value: npt.NDArray[Any]) -> Piece:
    """Gives the part of `value` at the index of `piece`, in its dtype and on its device."""
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


def whole(shape: Sequence[int], pieces: Sequence[Piece]) -> npt.NDArray[Any]:
    """Joins all pieces of a weight of that shape to one NumPy array."""
    first = host(pieces[0].array)
    if len(pieces) == 1 and pieces[0].index == ():
        return first
    found = np.empty(tuple(shape), first.dtype)
    for piece in pieces:
        found[piece.index] = host(piece.array)
    return found


def host(array: Any) -> npt.NDArray[Any]:
    """Gives `array` as NumPy's; a copy only where it lies on an accelerator."""
    return array if isinstance(array, np.ndarray) else np.asarray(ops.convert_to_numpy(array))


def reduce_in_place(
    reduction: Callable[[Any, Any], Any], pairs: Sequence[tuple[Any, Any]]
) -> list[tuple[int, int, npt.NDArray[np.float32]]]:
    """Reduces pairs of arrays on the device where they lie; only the results travel.

    Args:
        reduction: from two arrays of one shape, in ``keras.ops``, to a rank-1
            tensor. It is compiled where the backend can, one program for all
            pairs on a device. Make it a module's function: it is cached by identity.
        pairs: arrays of the backend.

    Returns:
        One or several ``(position of the pair, elements, result)`` for each
        pair. PyTorch reduces a large pair in chunks.
    """
    program = _program(reduction)
    if keras.backend.backend() == "torch":
        parts = [
            (i, a.numel(), program([a], [b]))
            for i, (w, r) in enumerate(pairs)
            for a, b in zip(w.reshape(-1).split(_CHUNK), r.reshape(-1).split(_CHUNK), strict=True)
        ]
        # One transfer: each would wait for the device.
        rows = ops.convert_to_numpy(ops.concatenate([part for _, _, part in parts]))
        return [(i, count, row) for (i, count, _), row in zip(parts, rows, strict=True)]
    places: dict[str, list[int]] = {}
    for i, (w, _) in enumerate(pairs):
        places.setdefault(str(getattr(w, "sharding", None) or w.device), []).append(i)
    pending = [
        (at, program([pairs[i][0] for i in at], [pairs[i][1] for i in at]))
        for at in places.values()
    ]
    return [
        (i, int(np.prod(pairs[i][0].shape)), row)
        for at, rows in pending
        for i, row in zip(at, ops.convert_to_numpy(rows), strict=True)
    ]


@functools.cache
def _program(reduction: Callable[[Any, Any], Any]) -> Callable[[list[Any], list[Any]], Any]:
    def every(ws: list[Any], rs: list[Any]) -> Any:
        return ops.stack([reduction(w, r) for w, r in zip(ws, rs, strict=True)])

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(every)  # type: ignore[no-any-return]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(every, jit_compile=True)  # type: ignore[no-any-return]
    return every


def of_all_processes(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Gathers the tables of all processes of a distributed JAX run.

    Args:
        table: what this process found.

    Returns:
        Shape ``(processes, *table.shape)``; on one process a view of `table`.
    """
    if keras.backend.backend() != "jax":
        return table[None]
    import jax

    if jax.process_count() == 1:
        return table[None]
    from jax.experimental import multihost_utils

    # As bits, because JAX would round float64.
    bits = np.ascontiguousarray(table).view(np.uint32)
    return np.asarray(multihost_utils.process_allgather(bits)).view(np.float64)


def _read_tensorflow(variables: Sequence[Any]) -> Callable[[], list[list[Piece]]]:
    import tensorflow as tf

    bfloat16 = [variable.dtype == "bfloat16" for variable in variables]
    sizes = [int(np.prod(variable.shape)) for variable in variables]
    # To hand an array out of TensorFlow takes longer than to copy a small one.
    small = [
        i
        for i, variable in enumerate(variables)
        if variable.dtype == "float32" and sizes[i] <= _SMALL and "CPU" in variable.value.device
    ]
    large = [i for i in range(len(variables)) if i not in set(small)]
    ends = np.cumsum([sizes[i] for i in small]).tolist()
    places = [
        (i, slice(end - sizes[i], end), tuple(variables[i].shape))
        for i, end in zip(small, ends, strict=True)
    ]

    @tf.function  # type: ignore[untyped-decorator]
    def values() -> list[Any]:
        # NumPy has no bfloat16, so its bits are passed.
        apart = [
            tf.bitcast(variables[i].value, tf.uint16)
            if bfloat16[i]
            else tf.identity(variables[i].value)
            for i in large
        ]
        together = [tf.reshape(variables[i].value, [-1]) for i in small]
        return [*apart, tf.concat(together, 0)] if small else apart

    # To find the trace anew at each call takes as long as half of the reads.
    concrete = values.get_concrete_function()

    def read() -> list[list[Piece]]:
        found = concrete()
        pieces: list[list[Piece]] = [[]] * len(variables)
        for i, tensor in zip(large, found, strict=False):
            pieces[i] = [Piece(_of_tensorflow(tensor, bfloat16[i]), ())]
        if small:
            together = _of_tensorflow(found[-1], False)
            for i, place, shape in places:
                pieces[i] = [Piece(together[place].reshape(shape), ())]
        return pieces

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
