"""Intervals drawn inside a table: one small SVG a row, all on one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmct_bench.leaderboards.tables import Mark

#: Size of a drawing in pixels (as in page.css), and what its axis leaves free at both ends.
WIDTH, HEIGHT, MARGIN = 120, 14, 6


@dataclass(frozen=True)
class Axis:
    """The common axis of a table: from ``low`` to ``high``, a line at ``null`` where there is one, and round ticks."""

    low: float
    high: float
    null: float | None
    ticks: tuple[float, ...]

    def x(self, value: float) -> float:
        """The place of a value in pixels; what lies outside of the axis is at its end."""
        inside = min(max(value, self.low), self.high)
        return round(MARGIN + (WIDTH - 2 * MARGIN) * (inside - self.low) / (self.high - self.low), 1)


def axis_of(marks: Sequence[Mark], null: float | None) -> Axis | None:
    """The axis that holds all estimates, planted values and the null. Intervals widen it by at most the spread of those
    to each side, so that one that is very wide or endless does not flatten the others. None where there is nothing to
    draw."""
    points = [v for m in marks for v in (m.estimate, m.planted) if v is not None and math.isfinite(v)]
    if not points:
        return None
    points += [null] if null is not None else []
    low, high = min(points), max(points)
    tiny = 1e-9 * max(abs(low), abs(high), 1e-9)  # less than that is no width that could be drawn
    spread = high - low if high - low > tiny else max(abs(high), 1.0)
    ends = [v for m in marks for v in (m.low, m.high) if math.isfinite(v)]
    low, high = max(min([low, *ends]), low - spread), min(max([high, *ends]), high + spread)
    if high - low <= tiny:
        low, high = low - spread / 2, high + spread / 2
    return Axis(low, high, null, _ticks(low, high))


def _ticks(low: float, high: float) -> tuple[float, ...]:
    """The round numbers between the ends, in the largest step of 1, 2 or 5 times a power of ten that has two of them
    (then there are no more than five)."""
    power = 10.0 ** math.floor(math.log10(high - low))
    for step in (power * f for f in (5, 2, 1, 0.5)):
        found = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        if len(found) > 1:
            break
    return tuple(step * k + 0.0 for k in found)


def strip(mark: Mark, axis: Axis) -> str:
    """The SVG of one row: null, interval (an arrow where it goes on beyond the axis), estimate, planted value. Sizes
    are in the style, and attributes have no quotation marks: a large page has thousands of these."""
    middle = HEIGHT // 2
    parts = [_null(axis, 0, HEIGHT)]
    if not (math.isnan(mark.low) or math.isnan(mark.high)):
        left, right = axis.x(mark.low), axis.x(mark.high)
        path = f"M{left:g},{middle}H{right:g}"
        if mark.low < axis.low:
            path += f"M{left + 4:g},3L{left:g},{middle}l4,4"
        if mark.high > axis.high:
            path += f"M{right - 4:g},3L{right:g},{middle}l-4,4"
        parts.append(f"<path d={path} />")
    parts.append(f"<path class=e d=M{axis.x(mark.estimate):g},{middle}h0 />")
    if mark.planted is not None and math.isfinite(mark.planted):
        parts.append(f"<path class=t d=M{axis.x(mark.planted):g},1l5,6-5,6-5-6z />")
    return f"<svg>{''.join(parts)}</svg>"


def head(axis: Axis) -> str:
    """The SVG of the axis itself, with its numbers, for the head of the column."""
    parts = [f"<path class=a d=M{MARGIN},17.5H{WIDTH - MARGIN} />", _null(axis, 13, 20)]
    digits = max(0, -math.floor(math.log10(axis.ticks[1] - axis.ticks[0]) + 1e-9)) if len(axis.ticks) > 1 else 1
    for tick in axis.ticks:
        text = f"{tick:.{digits}f}".replace("-", "−")
        at = min(max(axis.x(tick), 3.2 * len(text)), WIDTH - 3.2 * len(text))
        parts.append(f"<path class=a d=M{axis.x(tick):g},14.5v3 /><text x={at:g} y=10>{text}</text>")
    return f"<svg>{''.join(parts)}</svg>"


def _null(axis: Axis, top: int, bottom: int) -> str:
    return "" if axis.null is None else f"<path class=n d=M{axis.x(axis.null):g},{top}V{bottom} />"
