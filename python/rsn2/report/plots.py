"""Figures of results as pictures: lines with the spread over seeds, bars, dots."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from rsn2.experiments.figure import Figure, Series
from rsn2.report import charts, page
from rsn2.report.charts import WIDTH, Bar, Dot, Line
from rsn2.report.page import SERIES

LONGEST_STAGE = 62.0  # pixels between two places at which a word of eight letters fits


def draw(figure: Figure) -> str:
    """A figure as a picture (HTML)."""
    return {"lines": _lines, "bars": _bars, "dots": _dots}[figure.kind](figure)


def places_of(figure: Figure) -> list[float | str]:
    """Where there are values, numbers in order, names as they come."""
    places = list(dict.fromkeys(where for series in figure.series for where, _ in series.points))
    return sorted(places, key=float) if all(isinstance(place, (int, float)) for place in places) else places


def _values(series: Series, where: float | str) -> tuple[float, ...]:
    return dict(series.points).get(where, ())


def _spread(values: Sequence[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if len(values) > 1 else None


def _name(where: float | str) -> str:
    return where if isinstance(where, str) else f"{where:g}"


def colour_of(number: int) -> str:
    """The colour of a series."""
    return SERIES[number % len(SERIES)]


def _lines(figure: Figure) -> str:
    places = places_of(figure)
    items = []
    for number, series in enumerate(figure.series):
        values = [_values(series, where) for where in places]
        means = tuple(statistics.fmean(found) if found else None for found in values)
        spread = tuple(_spread(found) for found in values)
        label = series.label if len(series.label) <= 13 else ""
        items.append(Line(label, means, colour_of(number), spread=spread, marker=number))
    is_numeric = all(not isinstance(place, str) for place in places)
    positions = [float(place) for place in places] if is_numeric else None
    svg = charts.lines(figure.title, [_name(place) for place in places], items, figure.y_label, lowest=figure.lowest,
                       positions=positions, x_label=figure.x_label)  # fmt: skip
    return key(figure) + svg if any(not item.label for item in items) else svg


def key(figure: Figure) -> str:
    """Colours and markers of a figure's series."""
    drawn = [charts.marker(number, 8, 8, colour_of(number)) for number in range(len(figure.series))]
    return page.drawn_key([
        (charts.picture(16, series.label, svg, 16), series.label)
        for svg, series in zip(drawn, figure.series, strict=True)
    ])  # fmt: skip


def _bars(figure: Figure) -> str:
    items = []
    for where in places_of(figure):
        for number, series in enumerate(figure.series):
            values = _values(series, where)
            if not values:
                continue
            mean, spread = statistics.fmean(values), _spread(values)
            low, high = spread or (None, None)
            words = " · ".join(part for part in (_name(where), series.label) if part)
            items.append(Bar(words, ((mean, colour_of(number), words),), f"{mean:.{figure.digits}f}", low, high,
                             outlined=number % 2 == 1))  # fmt: skip
    return charts.bars(figure.title, items)


def _dots(figure: Figure) -> str:
    rows = []
    for where in places_of(figure):
        found = []
        for number, series in enumerate(figure.series):
            values = _values(series, where)
            if values:
                mean, (low, high) = statistics.fmean(values), _spread(values) or (None, None)
                what = f"{series.label}: {mean:.{figure.digits}f}"
                found.append(Dot(mean, colour_of(number), what, low, high, number, hollow=number % 2 == 1))
        rows.append((_name(where), found))
    drawn = [charts.marker(n, 8, 8, colour_of(n), hollow=n % 2 == 1) for n in range(len(figure.series))]
    shown = page.drawn_key([
        (charts.picture(16, series.label, svg, 16), series.label)
        for svg, series in zip(drawn, figure.series, strict=True)
    ])  # fmt: skip
    return shown + dots(figure.title, rows, figure.y_label)


def dots(title: str, rows: Sequence[tuple[str, Sequence[Dot]]], label: str, zero: str = "",
         limit: float = math.inf) -> str:  # fmt: skip
    """Rows of dots over one axis, which is above and below them.

    Args:
        title: for those who cannot see it.
        rows: name and dots of each.
        label: what the axis is.
        zero: what the line at zero is, when there is one.
        limit: how far from zero the axis goes at most; dots beyond are drawn there, with their value in letters.
    """
    left, top, step, right = 124.0, 34.0, 24.0, 12.0
    ends = [end for _, items in rows for dot in items for end in (dot.low, dot.high, dot.value) if end is not None]
    ends = [min(max(end, -limit), limit) for end in ends] or [0.0]
    marks, digits = charts.ticks(min([*ends, *([0.0] if zero else [])]), max([*ends, *([0.0] if zero else [])]))
    bottom = top + step * len(rows)

    def at(value: float) -> float:
        inside = min(max(value, -limit), limit)
        return left + (inside - marks[0]) / (marks[-1] - marks[0]) * (WIDTH - left - right)

    content = [charts.write(WIDTH - right, 12, label, "end", 'opacity="0.8"')]
    for tick in marks:
        is_zero = bool(zero) and abs(tick) < 1e-9
        strength = 'opacity="0.9" stroke-width="1.5"' if is_zero else 'opacity="0.18"'
        content.append(f'<path d="M{at(tick):.1f} {top}V{bottom}" stroke="currentColor" {strength}/>')
        for y in (top - 5, bottom + 14):
            content.append(charts.write(at(tick), y, f"{tick:.{digits}f}", "middle", 'opacity="0.8"'))
    if zero:
        content.append(charts.write(at(0.0), bottom + 29, zero, "middle", 'font-weight="600"'))
    for number, (name, items) in enumerate(rows):
        y = top + step * (number + 0.5)
        content.append(charts.write(0, y + 4, name))
        for dot in items:
            if dot.low is not None and dot.high is not None and dot.low < dot.high:
                content.append(charts.whisker(at(dot.low), at(dot.high), y, dot.colour))
            content.append(charts.marker(dot.marker, at(dot.value), y, dot.colour, hollow=dot.hollow, what=dot.what))
        outside = sorted((dot for dot in items if abs(dot.value) > limit), key=lambda dot: -abs(dot.value))
        for place, dot in enumerate(outside):
            side, anchor = (-9 - 40 * place, "end") if dot.value > 0 else (9 + 40 * place, "start")
            words = f"{dot.value:+.1f}".replace("-", "−")
            content.append(charts.write(at(dot.value) + side, y + 4, words, anchor, f'fill="{dot.colour}"'))
    return charts.picture(bottom + (34 if zero else 18), title, "".join(content))
