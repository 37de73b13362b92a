"""The page: a template, style and script of the package, and the numbers and texts of one picture as data."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from llmct_bench.ctpage.picture import Floats, Picture

#: Neutral SD and cosines are given in steps of this size, or of the next power of ten where they are larger. States
#: with a dimension that dwarfs the others have cosines that differ in the seventh digit.
_SCORE, _COSINE = 0.01, 1e-8
#: What could end a script element or a line of a script stands as an escape of JSON.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def page(picture: Picture) -> str:
    """One HTML page that needs nothing else: no network, no library. What models and conversations say stands in it as
    data of a script element, and as escaped text; the policy of the page allows its own style and script and nothing
    else. The same picture gives the same page."""
    style, script = (resources.files(__package__).joinpath(f"page.{e}").read_text("utf-8") for e in ("css", "js"))
    data = json.dumps(page_data(picture), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    parts = {
        "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "title": escape(picture.title),
        "model": escape(picture.model),
        "data": data.translate(_ESCAPES),
    }
    template = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    pieces = template.split("{{")  # every place once, so that no text is taken for a place
    return pieces[0] + "".join(parts[name] + rest for name, rest in (p.split("}}", 1) for p in pieces[1:]))


def page_data(picture: Picture) -> dict[str, Any]:
    """The numbers and texts of a page as plain data."""
    scores, tokens = picture.limits
    return {
        "title": picture.title,
        "model": picture.model,
        "point": picture.point,
        "emotions": picture.emotions,
        "labels": picture.labels,
        "generated": picture.generated,
        "limits": {"scores": scores, "tokens": tokens},
        "messages": [{"role": m.role, "stage": m.stage, "tokens": m.tokens} for m in picture.messages],
        "own": pack(picture.own, _SCORE),
        "control": None if picture.control is None else pack(picture.control, _SCORE),
        "raw": pack(picture.raw, _COSINE, 4),
        "raw_control": None if picture.raw_control is None else pack(picture.raw_control, _COSINE, 4),
        "tokens": pack(picture.tokens, _SCORE),
    }


def pack(values: Floats, step: float, size: int = 2) -> dict[str, Any]:
    """An array as base64 of little-endian integers of ``size`` bytes, row by row, in units of ``step`` or of the next
    power of ten of it that all values fit into."""
    kind = np.dtype(f"<i{size}")
    while values.size and np.abs(values).max() / step > np.iinfo(kind).max:
        step *= 10
    whole = np.rint(values / step).astype(kind)
    return {"shape": values.shape, "step": step, "size": size, "values": base64.b64encode(whole.tobytes()).decode()}


def unpack(packed: dict[str, Any]) -> Floats:
    """Back from `pack`, rounded to its step."""
    whole = np.frombuffer(base64.b64decode(packed["values"]), f"<i{packed['size']}").reshape(packed["shape"])
    return np.asarray(whole * packed["step"])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
