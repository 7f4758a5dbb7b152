"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    if any(len(row) != len(headings) for row in rows):
        raise ValueError(f"table: every row must have {len(headings)} cells, got {sorted({len(row) for row in rows})}")
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])) + "\n"
