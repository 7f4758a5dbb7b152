"""Small charts as inline SVG. They are drawn 340 wide, so that on a narrow screen their text keeps its size.

What differs by colour differs by marker, number or outline as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rsn2.report.page import text, text_colour

WIDTH = 340
TEXT_SIZE = 12
_CHARACTER = 7.3  # mean width of a bold character at TEXT_SIZE, generously
_PALE = 'opacity="0.8"'


@dataclass(frozen=True)
class Bar:
    """One bar: ``parts`` are ``(value, colour, what it is)``, drawn one after another.

    Attributes:
        label: what the bar is of, above it.
        value_label: written at its end.
        low, high: a whisker, when given.
        outlined: drawn as an outline, so that it differs from the others without colour.
        numbers: written into the parts, where they are wide enough.
    """

    label: str
    parts: tuple[tuple[float, str, str], ...]
    value_label: str
    low: float | None = None
    high: float | None = None
    outlined: bool = False
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of a chart: a value per stage, None where there is none.

    Attributes:
        label: written at its end; nothing is, when empty.
        values: one for each place.
        colour: of line and markers.
        dashed: so that it differs from the others without colour.
        spread: lowest and highest value of each place.
        marker: the number of its shape, see ``marker``.
        hollow: markers only, large and empty.
    """

    label: str
    values: tuple[float | None, ...]
    colour: str
    dashed: bool = False
    spread: tuple[tuple[float, float] | None, ...] = ()
    marker: int = 0
    hollow: bool = False


@dataclass(frozen=True)
class Dot:
    """One value in a row of dots, with a whisker when ``low`` and ``high`` are given."""

    value: float
    colour: str
    what: str
    low: float | None = None
    high: float | None = None
    marker: int = 0
    hollow: bool = False


def picture(height: float, title: str, content: str, width: float = WIDTH) -> str:
    """An ``<svg>`` of some content."""
    size = f'width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}"'
    return (
        f'<svg {size} role="img" aria-label="{text(title)}" font-size="{TEXT_SIZE}" fill="currentColor">'
        f"<title>{text(title)}</title>{content}</svg>"
    )


def marker(shape: int, x: float, y: float, colour: str, *, hollow: bool = False, what: str = "") -> str:
    """A circle, square, diamond, triangle, or the last two upside down or crossed; from the eighth on again."""
    r = 5.2 if hollow else 4.4
    paint = f'fill="none" stroke="{colour}" stroke-width="2"' if hollow else f'fill="{colour}"'
    said = f"<title>{text(what)}</title>" if what else ""
    if shape % 7 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r - 0.3:.1f}" {paint}>{said}</circle>'
    corners = (
        ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        ((0, -1.3), (1.3, 1), (-1.3, 1)),
        ((0, 1.3), (1.3, -1), (-1.3, -1)),
        ((-1.3, -1), (1.3, -1), (-1.3, 1), (1.3, 1)),
        ((-0.4, -1.3), (0.4, -1.3), (0.4, -0.4), (1.3, -0.4), (1.3, 0.4), (0.4, 0.4), (0.4, 1.3), (-0.4, 1.3),
         (-0.4, 0.4), (-1.3, 0.4), (-1.3, -0.4), (-0.4, -0.4)),
    )[shape % 7 - 1]  # fmt: skip
    route = "L".join(f"{x + r * dx:.1f} {y + r * dy:.1f}" for dx, dy in corners)
    return f'<path class="marker" d="M{route}Z" {paint}>{said}</path>'


def write(x: float, y: float, words: str, anchor: str = "start", extra: str = "") -> str:
    """Words in a picture."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{text(words)}</text>'


def whisker(low: float, high: float, middle: float, colour: str = "currentColor") -> str:
    """A horizontal one, in pixels."""
    route = f"M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8"
    return f'<path d="{route}" stroke="{colour}" stroke-width="1.5" fill="none"/>'


def bars(title: str, items: Sequence[Bar]) -> str:
    """Horizontal bars from zero, longest value as wide as its label leaves room for; labels above."""
    longest = max(len(item.value_label) for item in items) * _CHARACTER + 10
    largest = max(max(sum(v for v, _, _ in item.parts), item.high or 0.0) for item in items)
    scale = (WIDTH - longest) / largest if largest > 0 else 0.0
    content, y = [], 0.0
    for item in items:
        content.append(write(0, y + 13, item.label))
        x, top = 0.0, y + 19
        for number, (value, colour, what) in enumerate(item.parts):
            width = max(value * scale, 0.0)
            paint = f'fill="none" stroke="{colour}" stroke-width="2"' if item.outlined else f'fill="{colour}"'
            inset = 1 if item.outlined else 0
            size = f'width="{max(width - 2 * inset, 0.5):.2f}" height="{16 - 2 * inset}"'
            corner = f'x="{x + inset:.2f}" y="{top + inset}"'
            content.append(f"<rect {corner} {size} {paint}><title>{text(what)}</title></rect>")
            words = item.numbers[number] if number < len(item.numbers) else ""
            if words and width >= 8 * len(words) + 2:
                content.append(write(x + width / 2, top + 12.5, words, "middle", f'fill="{text_colour(colour)}"'))
            x += width
        if item.low is not None and item.high is not None:
            content.append(whisker(item.low * scale, item.high * scale, top + 8))
            x = max(x, item.high * scale)
        content.append(write(x + 6, top + 12, item.value_label, extra='font-weight="600"'))
        y += 44
    return picture(y, title, "".join(content))


def ticks(low: float, high: float) -> tuple[list[float], int]:
    """Round numbers that span low to high, at most six of them, and their decimals."""
    raw = max(high - low, 1e-9) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * number for number in range(first, max(last, first + 1) + 1)], max(0, -math.floor(math.log10(step)))


def ticks_of_ratios(low: float, high: float) -> list[float]:
    """Ones, twos and fives that span low to high, both above 0."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 2)
    all_marks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max((mark for mark in all_marks if mark <= low * 1.001), default=all_marks[0])
    last = min(mark for mark in all_marks if mark >= high * 0.999 and mark > first)
    return [mark for mark in all_marks if first <= mark <= last]


def lines(title: str, stages: Sequence[str], items: Sequence[Line], y_label: str, *, at_least: float = 0.0,
          lowest: float = 0.0, positions: Sequence[float] | None = None, x_label: str = "",
          logarithmic: bool = False) -> str:  # fmt: skip
    """Values at each place, each line labelled at its end.

    Args:
        title: for those who cannot see it.
        stages: names of the places; a name may have several lines.
        items: at least one.
        y_label: what the values are.
        at_least: the axis goes up to the largest value or to this.
        lowest: where the axis starts.
        positions: where the places are, ascending; evenly spaced when None.
        x_label: what the places are, below them.
        logarithmic: equal ratios are equally high; all values must be above 0, ``at_least`` and ``lowest`` say nothing.
    """
    has_labels = any(item.label for item in items)
    left, right, top, height = 40.0, 104.0 if has_labels else 14.0, 22.0, 250.0
    bottom = 22.0 + 14 * max(stage.count("\n") for stage in stages) + (16 if x_label else 0)
    height += bottom - 36
    known = [v for item in items for v in item.values if v is not None]
    known += [end for item in items for pair in item.spread if pair for end in pair]
    if logarithmic:
        marks = ticks_of_ratios(min(known), max(known))
        names_of_marks = [f"{mark:g}" for mark in marks]
    else:
        marks, digits = ticks(lowest, max([*known, at_least, lowest + 1e-9]))
        names_of_marks = [f"{mark:.{digits}f}" for mark in marks]
    scale: Callable[[float], float] = math.log10 if logarithmic else float
    base, span = scale(marks[0]), scale(marks[-1]) - scale(marks[0])
    content = [write(0, 11, y_label, extra=_PALE)]
    where = list(range(len(stages))) if positions is None else list(positions)

    def at(stage: int, value: float) -> tuple[float, float]:
        along = (where[stage] - where[0]) / ((where[-1] - where[0]) or 1)
        below = 1 - (scale(value) - base) / span
        return left + 10 + along * (WIDTH - left - right - 10), top + below * (height - top - bottom)

    for tick, name in zip(marks, names_of_marks, strict=True):
        y = at(0, tick)[1]
        content.append(f'<path d="M{left} {y:.1f}H{WIDTH - right + 4}" stroke="currentColor" opacity="0.18"/>')
        content.append(write(left - 5, y + 4, name, "end", _PALE))
    free_from = -math.inf
    for number, stage in enumerate(stages):
        x, words = at(number, marks[0])[0], stage.split("\n")
        half = max(len(word) for word in words) * 3.4
        if x - half < free_from and positions is not None:
            continue  # a number that would cover its neighbour; the ones beside it tell
        free_from = x + half + 2
        for depth, word in enumerate(words):
            content.append(write(x, height - bottom + 16 + 14 * depth, word, "middle", _PALE))
    if x_label:
        content.append(write((left + WIDTH - right) / 2, height - 4, x_label, "middle", _PALE))
    labelled = [item for item in items if item.label and any(v is not None for v in item.values)]
    ends = [next(at(n, v)[1] for n, v in reversed(list(enumerate(item.values))) if v is not None) for item in labelled]
    label_at = dict(zip([id(item) for item in labelled], _apart(ends, height - bottom + 4), strict=True))
    for item in items:
        content += _one_line(item, at, label_at.get(id(item)))
    return picture(height, title, "".join(content))


def _one_line(item: Line, at: Callable[[int, float], tuple[float, float]], label_y: float | None) -> list[str]:
    points = [at(number, value) for number, value in enumerate(item.values) if value is not None]
    if not points:
        return []
    content = []
    route = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if item.dashed else ""
    if not item.hollow:
        content.append(f'<path d="M{route}" fill="none" stroke="{item.colour}" stroke-width="2.5"{dash}/>')
    for number, pair in enumerate(item.spread):
        if pair is not None and pair[0] < pair[1]:
            (x, lower), (_, upper) = at(number, pair[0]), at(number, pair[1])
            route = f"M{x:.1f} {lower:.1f}V{upper:.1f}M{x - 4:.1f} {lower:.1f}h8M{x - 4:.1f} {upper:.1f}h8"
            content.append(f'<path d="{route}" stroke="{item.colour}" stroke-width="1.5" fill="none"/>')
    content += [marker(item.marker, x, y, item.colour, hollow=item.hollow, what=item.label) for x, y in points]
    if label_y is not None:
        x, y = points[-1]
        content.append(
            f'<path d="M{x + 5:.1f} {y:.1f}L{x + 15:.1f} {label_y:.1f}" stroke="{item.colour}" opacity="0.6"/>'
        )
        content.append(write(x + 18, label_y + 4, item.label))
    return content


def _apart(heights: list[float], lowest: float, distance: float = 15.0) -> list[float]:
    """The same heights, moved as little as needed so that no two labels overlap and none is below ``lowest``."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for above, below in zip(order, order[1:], strict=False):
        placed[below] = max(placed[below], placed[above] + distance)
    for below in reversed(order):
        placed[below] = min(placed[below], lowest)
        lowest = placed[below] - distance
    return placed
