"""Checksums of a result, ``SHA256SUMS`` in its folder, in the format that ``sha256sum --check`` reads. They find what
was changed by accident or by hand; they are no signature."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

SUMS = "SHA256SUMS"


def write_sums(folder: Path, coming: Mapping[str, bytes]) -> None:
    """Write the sums of all files that lie in ``folder``, and of those that are ``coming`` there: name -> content."""
    sums = {p.name: _digest(p) for p in folder.iterdir() if p.is_file()}
    sums |= {name: hashlib.sha256(content).hexdigest() for name, content in coming.items()}
    lines = (f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    (folder / SUMS).write_bytes("".join(lines).encode())


def broken_sums(folder: Path) -> dict[str, str]:
    """What is wrong with the files of a result: file name -> problem. Empty where every file is the one saved."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {SUMS: "is missing: nothing says what the other files were"}
    except (OSError, UnicodeDecodeError):
        return {SUMS: "cannot be read"}
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if any(Path(name).name != name or not name for name in known):
        return {SUMS: "is no list of checksums"}
    files = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != SUMS)
    problems = {name: "is not in SHA256SUMS" for name in files if name not in known}
    for name, digest in known.items():
        if name not in files:
            problems[name] = "is missing"
        elif _digest(folder / name) != digest:
            problems[name] = "is not the file that was saved (sha256)"
    return problems


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
