"""Small charts as inline SVG. They are drawn 340 wide, so that on a narrow screen their text keeps its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rsn2.report.page import text

WIDTH = 340
TEXT_SIZE = 12
_CHARACTER = 7.3  # mean width of a bold character at TEXT_SIZE, generously


@dataclass(frozen=True)
class Bar:
    """One bar: ``parts`` are ``(value, colour, what it is)``, drawn one after another.

    Attributes:
        label: what the bar is of, above it.
        value_label: written at its end.
        low, high: a whisker, when given.
        outlined: drawn as an outline, so that it differs from the others without colour.
    """

    label: str
    parts: tuple[tuple[float, str, str], ...]
    value_label: str
    low: float | None = None
    high: float | None = None
    outlined: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a chart: a value per stage, None where there is none yet."""

    label: str
    values: tuple[float | None, ...]
    colour: str
    dashed: bool = False


def _svg(height: float, title: str, content: str) -> str:
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    return (
        f'<svg {size} role="img" aria-label="{text(title)}" font-size="{TEXT_SIZE}" fill="currentColor">'
        f"<title>{text(title)}</title>{content}</svg>"
    )


def _write(x: float, y: float, words: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{text(words)}</text>'


def bars(title: str, items: Sequence[Bar]) -> str:
    """Horizontal bars from zero, longest value as wide as its label leaves room for; labels above."""
    longest = max(len(item.value_label) for item in items) * _CHARACTER + 10
    largest = max(max(sum(v for v, _, _ in item.parts), item.high or 0.0) for item in items)
    scale = (WIDTH - longest) / largest if largest > 0 else 0.0
    content, y = [], 0.0
    for item in items:
        content.append(_write(0, y + 13, item.label))
        x, top = 0.0, y + 19
        for value, colour, what in item.parts:
            width = max(value * scale, 0.0)
            paint = f'fill="none" stroke="{colour}" stroke-width="2"' if item.outlined else f'fill="{colour}"'
            inset = 1 if item.outlined else 0
            size = f'width="{max(width - 2 * inset, 0.5):.2f}" height="{16 - 2 * inset}"'
            corner = f'x="{x + inset:.2f}" y="{top + inset}"'
            content.append(f"<rect {corner} {size} {paint}><title>{text(what)}</title></rect>")
            x += width
        if item.low is not None and item.high is not None:
            left, right, middle = item.low * scale, item.high * scale, top + 8
            content.append(
                f'<path d="M{left:.1f} {middle}H{right:.1f}M{left:.1f} {middle - 4}v8M{right:.1f} {middle - 4}v8" '
                f'stroke="currentColor" stroke-width="1.5" fill="none"/>'
            )
            x = max(x, right)
        content.append(_write(x + 6, top + 12, item.value_label, extra='font-weight="600"'))
        y += 44
    return _svg(y, title, "".join(content))


def _step(span: float) -> float:
    """A round distance between grid lines, at most five of them."""
    raw = span / 4
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)


def lines(title: str, stages: Sequence[str], items: Sequence[Line], y_label: str, *, at_least: float = 0.0) -> str:
    """Values after each stage, from zero up to the largest or ``at_least``, each line labelled at its end."""
    left, right, top, bottom, height = 38.0, 104.0, 22.0, 36.0, 250.0
    known = [v for item in items for v in item.values if v is not None]
    step = _step(max([*known, at_least, 1e-9]))
    num_steps = math.ceil(max([*known, at_least, step]) / step)
    largest, digits = step * num_steps, max(0, -math.floor(math.log10(step)))
    content = [_write(0, 11, y_label, extra='opacity="0.8"')]

    def at(stage: int, value: float) -> tuple[float, float]:
        span = max(len(stages) - 1, 1)
        return left + 10 + stage / span * (WIDTH - left - right - 10), top + (1 - value / largest) * (
            height - top - bottom
        )

    for tick in range(num_steps + 1):
        y = at(0, tick * step)[1]
        content.append(f'<path d="M{left} {y:.1f}H{WIDTH - right + 4}" stroke="currentColor" opacity="0.18"/>')
        content.append(_write(left - 5, y + 4, f"{tick * step:.{digits}f}", "end", 'opacity="0.8"'))
    for number, stage in enumerate(stages):
        x = at(number, 0.0)[0]
        for depth, words in enumerate(stage.split("\n")):
            content.append(_write(x, height - bottom + 16 + 14 * depth, words, "middle", 'opacity="0.8"'))
    for item, label_y in zip(items, _apart([at(0, item.values[-1] or 0.0)[1] for item in items]), strict=True):
        points = [at(number, value) for number, value in enumerate(item.values) if value is not None]
        if not points:
            continue
        route = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if item.dashed else ""
        content.append(f'<path d="M{route}" fill="none" stroke="{item.colour}" stroke-width="2.5"{dash}/>')
        for x, y in points:
            content.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{item.colour}"/>')
        x, y = points[-1]
        content.append(
            f'<path d="M{x + 5:.1f} {y:.1f}L{x + 15:.1f} {label_y:.1f}" stroke="{item.colour}" opacity="0.6"/>'
        )
        content.append(_write(x + 18, label_y + 4, item.label))
    return _svg(height, title, "".join(content))


def _apart(heights: list[float], distance: float = 15.0) -> list[float]:
    """The same heights, moved down as little as needed so that no two labels overlap."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for above, below in zip(order, order[1:], strict=False):
        placed[below] = max(placed[below], placed[above] + distance)
    return placed
