"""TFRecord files of ``tf.train.Example``, read without TensorFlow.

A record is its length (8 bytes, little-endian), a checksum of that, the data, and a checksum of the data
(https://www.tensorflow.org/tutorials/load_data/tfrecord). The data are a protocol buffer: a map from names to lists of
bytes, floats or integers (tensorflow/core/example/feature.proto, https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER, FOOTER = 12, 4
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5


def record_offsets(path: Path) -> NDArray[np.int64]:
    """(S + 1,) byte offsets of the records, and of the end; cached for this state of the file.

    Raises:
        ValueError: not a TFRecord file, or cut off.
    """
    state = path.stat()
    return _scan(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=2)
def _scan(path: Path, size: int, modified: int) -> NDArray[np.int64]:
    found = [0]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if size < HEADER or _masked_crc32c(data[:8]) != struct.unpack_from("<I", data, 8)[0]:
            raise ValueError(f"{path}: not an uncompressed TFRecord file: the first length does not fit its checksum")
        while found[-1] < size:
            left = size - found[-1]
            length = struct.unpack_from("<Q", data, found[-1])[0] + HEADER + FOOTER if left >= HEADER else HEADER
            if length > left:
                raise ValueError(
                    f"{path}: record {len(found) - 1} needs {length} bytes, but {left} are left: the file is cut off"
                )
            found.append(found[-1] + length)
    return np.array(found, dtype=np.int64)


def read_records(path: Path, start: int, stop: int) -> Iterator[bytes]:
    """The data of records ``start`` to ``stop``."""
    offsets = record_offsets(path)
    stop = min(stop, len(offsets) - 1)
    with path.open("rb") as file:
        file.seek(offsets[min(start, stop)])
        for index in range(start, stop):
            yield file.read(offsets[index + 1] - offsets[index])[HEADER:-FOOTER]


def parse_example(data: bytes) -> dict[str, Any]:
    """The features of a ``tf.train.Example``: arrays of float32 or int64, or lists of bytes.

    Raises:
        ValueError: not such a message.
    """
    features: dict[str, Any] = {}
    try:
        for _, _, feature_map in _fields(data):
            for _, _, entry in _fields(feature_map):
                parts = {number: value for number, _, value in _fields(entry)}
                features[parts[1].decode()] = _feature(parts[2])
    except (IndexError, KeyError, TypeError, AttributeError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"not a tf.train.Example: {error!r}") from error
    return features


def _feature(data: bytes) -> Any:
    """One of BytesList (1), FloatList (2), Int64List (3)."""
    values: Any = []
    for kind, _, content in _fields(data):
        items = list(_fields(content))
        if kind == 1:
            values = [value for _, _, value in items]
        elif kind == 2:
            values = np.frombuffer(b"".join(value for _, _, value in items), dtype="<f4")
        else:
            values = np.array([number for _, wire, value in items for number in _integers(wire, value)], dtype=np.int64)
    return values


def _integers(wire: int, value: Any) -> list[int]:
    """A list of integers is one field of all (packed) or one field of each."""
    numbers = [value] if wire == VARINT else []
    position = 0
    while wire == BYTES and position < len(value):
        number, position = _varint(value, position)
        numbers.append(number)
    return [number - 2**64 if number >= 2**63 else number for number in numbers]


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, value) of each field of a message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire = key & 7
        if wire == VARINT:
            value, position = _varint(data, position)
            yield key >> 3, wire, value
            continue
        size = {EIGHT_BYTES: 8, FOUR_BYTES: 4}.get(wire, 0)
        if wire == BYTES:
            size, position = _varint(data, position)
        elif size == 0:
            raise ValueError(f"not a protocol buffer: wire type {wire}")
        if position + size > len(data):
            raise ValueError("not a whole protocol buffer: a field is longer than the message")
        yield key >> 3, wire, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Seven bits a byte, lowest first, as long as the highest bit is set; and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7


def _masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord: CRC-32C (Castagnoli), rotated by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
