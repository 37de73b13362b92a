"""States on disk: a safetensors file that is mapped into memory, for reading and for filling."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmct_bench.errors import ResultError

_NAMES = ("content", "last")
_CHUNK = 1 << 24


def open_arrays(path: Path, shape: tuple[int, int, int], *, new: bool) -> list[NDArray[np.float32]]:
    """The arrays ``content`` and ``last`` of a file, memory-mapped: read-only, or writable and NaN in a ``new`` file.
    Raises ResultError on a file that does not hold two arrays of this shape, OSError when the disk refuses.

    The safetensors library reads tensors into memory and writes them from there; only a map keeps memory flat. The
    format is eight bytes of header length, a JSON header, and the data: https://github.com/huggingface/safetensors.
    """
    if new:
        _write(path, shape)
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            if length > size:
                raise ValueError("a header longer than the file")
            header = json.loads(stream.read(length))
        found = []
        for name in _NAMES:
            entry: Any = header[name]
            place = tuple(int(n) for n in entry["shape"])
            if place != shape or entry["dtype"] != "F32":
                raise ValueError("another shape")
            offset = 8 + length + int(entry["data_offsets"][0])
            found.append(np.memmap(path, np.float32, "r+" if new else "r", offset, place))
    except (FileNotFoundError, struct.error, ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ResultError(f"{path} does not hold the states: delete its folder and scan again") from error
    return [a if new else np.asarray(a) for a in found]


def _write(path: Path, shape: tuple[int, int, int]) -> None:
    """A whole file of NaN, written and not mapped: a full disk is then an error and not the end of the process."""
    size = int(np.prod(shape)) * 4
    header = {
        name: {"dtype": "F32", "shape": list(shape), "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(_NAMES)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    nan = np.full(_CHUNK // 4, np.nan, np.float32).tobytes()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for begin in range(0, 2 * size, _CHUNK):
            stream.write(nan[: min(_CHUNK, 2 * size - begin)])
        stream.flush()
        os.fsync(stream.fileno())
