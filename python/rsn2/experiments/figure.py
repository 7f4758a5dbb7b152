"""What an experiment wants drawn of its results, as figures alone: how it is drawn is up to the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Series:
    """Figures that belong together.

    Attributes:
        label: what they are of.
        points: ``(where, values)``: a number or a name, and one value for each seed.
    """

    label: str
    points: tuple[tuple[float | str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Figure:
    """One picture, and one table with the same figures.

    Attributes:
        title: in a few words.
        caption: a sentence that says what is seen.
        x_label, y_label: what ``where`` and the values are, with units.
        series: at least one. In pictures of bars or dots, each ``where`` is a group.
        kind: ``"lines"`` over numbers or names, ``"bars"`` from zero, ``"dots"`` where a zero would hide differences.
        lowest: where the axis of values starts; ``"dots"`` chooses by itself and bars start at 0.
        digits: decimals in the table.
    """

    title: str
    caption: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    kind: Literal["lines", "bars", "dots"] = "lines"
    lowest: float = 0.0
    digits: int = 2


def series_of(
    label: str,
    lines: Iterable[Mapping[str, Any]],
    where: Callable[[Mapping[str, Any]], float | str | None],
    value: Callable[[Mapping[str, Any]], float | None],
) -> Series:
    """Lines of results as a series: those with the same ``where`` are the seeds of one point.

    Lines for which ``where`` or ``value`` is None are left out. Numbers are put in order, names stay in theirs.
    """
    found: dict[float | str, list[float]] = {}
    for line in lines:
        place, number = where(line), value(line)
        if place is not None and number is not None:
            found.setdefault(place, []).append(number)
    places = list(found)
    if all(isinstance(place, (int, float)) for place in places):
        places.sort(key=float)
    return Series(label, tuple((place, tuple(found[place])) for place in places))
