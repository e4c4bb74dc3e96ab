"""How an event file frames its events: each with its length, and a checksum for both."""

import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 256
_HEAD, _FOOT = 12, 4  # the length with its checksum; the checksum of the content


def unframed(path: Path) -> Iterator[bytes]:
    """Reads the events of a file.

    Left out are a damaged event and, since nobody knows where the next one
    begins, all that follows a damaged length or half of an event.

    Raises:
        OSError: where the file can not be read.
    """
    with path.open("rb") as file:
        left = file.seek(0, os.SEEK_END)
        file.seek(0)
        while len(head := file.read(_HEAD)) == _HEAD:
            left -= _HEAD + _FOOT
            length = int.from_bytes(head[:8], "little")
            if struct.pack("<I", _masked(head[:8])) != head[8:] or length > left:
                return
            left -= length
            content, checksum = file.read(length), file.read(_FOOT)
            if struct.pack("<I", _masked(content)) == checksum:
                yield content


def framed(data: bytes) -> bytes:
    """Gives an event as it stands in a file: length and content, each with its checksum."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        [length, struct.pack("<I", _masked(length)), data, struct.pack("<I", _masked(data))]
    )


def _masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Gives the CRC-32C (Castagnoli) checksum.

    A checksum is linear in its input: each byte of a block adds (by xor) a
    value that only the byte and its place decide, so one table look-up over
    all bytes and one reduction do a block. Zeros before the data change
    nothing; the state goes into the first four bytes of the next block.
    """
    if len(data) < 4:
        return _crc32c_of_few(data)
    places, head = _tables()
    block = np.zeros(-(-len(data) // _BLOCK) * _BLOCK, np.uint8)
    start = block.size - len(data)
    block[start:] = np.frombuffer(data, np.uint8)
    block[start : start + 4] ^= 0xFF
    index = places[0] + block.reshape(-1, _BLOCK)
    first, second, third, fourth = head
    state = 0
    for part in np.bitwise_xor.reduce(places[1].take(index), axis=1).tolist():
        state = (
            part
            ^ first[state & 0xFF]
            ^ second[state >> 8 & 0xFF]
            ^ third[state >> 16 & 0xFF]
            ^ fourth[state >> 24]
        )
    return state ^ 0xFFFFFFFF


def _crc32c_of_few(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@functools.cache
def _tables() -> tuple[tuple[npt.NDArray[Any], npt.NDArray[Any]], list[list[int]]]:
    """Tells what a byte at each place of a block adds to the checksum."""
    byte = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        byte = np.where(byte & 1, byte >> 1 ^ np.uint32(0x82F63B78), byte >> 1)
    table = np.empty((_BLOCK, 256), np.uint32)
    table[-1] = byte
    for place in range(_BLOCK - 2, -1, -1):
        later = table[place + 1]
        table[place] = byte[later & 0xFF] ^ later >> 8
    offsets = np.arange(_BLOCK, dtype=np.intp) * 256
    return (offsets, table.ravel()), [table[place].tolist() for place in range(4)]
