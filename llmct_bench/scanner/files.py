"""States on disk: a safetensors file that is mapped into memory, for reading and for filling."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmct_bench.errors import ResultError

_NAMES = ("content", "last")


def open_arrays(path: Path, shape: tuple[int, int, int] | None = None) -> list[NDArray[np.float32]]:
    """The arrays ``content`` and ``last`` of a file, memory-mapped: read-only, or, where a ``shape`` is given, new ones
    of NaN in a new file. Raises ResultError on a file that is not one of ours, OSError when the disk refuses.

    The safetensors library reads tensors into memory and writes them from there; only a map keeps memory flat. The
    format is eight bytes of header length, a JSON header, and the data: https://github.com/huggingface/safetensors.
    """
    if shape is not None:
        size = int(np.prod(shape)) * 4
        header = {
            name: {"dtype": "F32", "shape": list(shape), "data_offsets": [i * size, (i + 1) * size]}
            for i, name in enumerate(_NAMES)
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + 2 * size)
    try:
        with path.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            header = json.loads(stream.read(length))
        found = []
        for name in _NAMES:
            entry: Any = header[name]
            offset = 8 + length + int(entry["data_offsets"][0])
            place = tuple(int(n) for n in entry["shape"])
            found.append(np.memmap(path, np.float32, "r" if shape is None else "r+", offset, place))
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path} is not a file of states: delete its folder and scan again") from error
    if shape is not None:
        for array in found:
            array[:] = np.nan
    return [np.asarray(a) if shape is None else a for a in found]
