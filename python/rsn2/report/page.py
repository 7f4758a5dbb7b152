"""A self-contained HTML page: sections, tables, figures. Style and pictures are inside; nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# Okabe and Ito's colours, which people with any common colour blindness can tell apart; also told apart by pattern or
# label.
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7F6A00", "#5B4FA2")

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d5dae0; --panel: #f5f7f9;
  --good: #00694d; --bad: #a33b00; --accent: #0072B2; --neutral: #8d97a3; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --ink: #e8ebee; --soft: #a9b2bc; --line: #3a424b;
  --panel: #1d2228; --good: #45c79f; --bad: #ff9d5c; --accent: #6db9ea; --neutral: #77818d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 16px 48px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 20px; line-height: 1.3; margin: 44px 0 6px; }
p { margin: 6px 0 12px; max-width: 76ch; }
code { font: 0.9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--panel); padding: 1px 4px;
  border-radius: 4px; overflow-wrap: anywhere; }
.lead { font-size: 18px; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0; }
.tile { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.tile b { display: block; font-size: 25px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 14px; line-height: 1.35; display: block; }
.row { display: flex; flex-wrap: wrap; gap: 24px 32px; align-items: flex-start; }
.row > .wide { flex: 1 1 380px; min-width: 0; }
figure { margin: 12px 0; max-width: 100%; }
figcaption { color: var(--soft); font-size: 14px; line-height: 1.45; margin-top: 6px; }
svg { display: block; max-width: 100%; height: auto; font-family: inherit; }
img.map { display: block; max-width: none; image-rendering: pixelated; border: 1px solid var(--line); }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 14px; line-height: 1.4; font-variant-numeric: tabular-nums;
  margin: 10px 0; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: baseline; }
td { white-space: nowrap; }
th { font-weight: 600; border-bottom: 2px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 96px; }
td:last-child, th:last-child { padding-right: 0; }
.good { color: var(--good); } .bad { color: var(--bad); } .soft { color: var(--soft); }
.key { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 14px; margin: 8px 0; padding: 0; list-style: none; }
.key i { display: inline-block; width: 13px; height: 13px; border-radius: 3px; margin-right: 6px; vertical-align: -2px;
  border: 1px solid var(--line); }
.key i.number { width: 17px; height: 17px; line-height: 16px; font-size: 12px; text-align: center; font-style: normal;
  vertical-align: 0; }
.key svg { display: inline-block; vertical-align: -3px; margin-right: 5px; }
h3 { font-size: 16px; line-height: 1.35; margin: 26px 0 4px; }
small { font-size: 12px; color: var(--soft); display: block; line-height: 1.25; }
.note { font-size: 14px; line-height: 1.45; }
tr.group th { text-align: left; padding: 14px 0 4px; border-bottom: 1px solid var(--line); }
nav { display: flex; flex-wrap: wrap; gap: 6px 8px; margin: 16px 0; font-size: 14px; }
nav a { border: 1px solid var(--line); border-radius: 14px; padding: 3px 11px; color: inherit; text-decoration: none; }
nav a:hover, nav a:focus-visible { border-color: var(--accent); color: var(--accent); }
footer { margin-top: 48px; padding-top: 12px; border-top: 1px solid var(--line); color: var(--soft); font-size: 13px; }
@media (max-width: 480px) { th, td { padding: 5px 3px; } th:first-child, td:first-child { min-width: 78px; }
  table { font-size: 13px; } h1 { font-size: 23px; }
  table.cards, .cards tbody, .cards td, .cards th { display: block; width: 100%; }
  .cards thead { display: none; }
  .cards tr { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1px 10px;
    border-bottom: 2px solid var(--line); padding: 6px 0; }
  .cards tr.group { display: block; border-bottom: 0; padding: 0; }
  .cards td { display: flex; justify-content: space-between; gap: 6px; padding: 1px 0; border: 0; min-width: 0;
    white-space: normal; }
  .cards td:has(> div:empty) { display: none; }
  .cards td::before { content: attr(data-heading); color: var(--soft); text-align: left; overflow-wrap: anywhere; }
  .cards td:first-child { font-weight: 600; grid-column: 1 / -1; } .cards td:first-child::before { content: none; } }
@page { size: A4; margin: 14mm; }
@media print { :root { --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --panel: #fff; --good: #00694d;
  --bad: #a33b00; --accent: #0072B2; --neutral: #8d97a3; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; }
  table { font-size: 11.5px; } small { font-size: 10.5px; } th, td { padding: 3px 5px; } td { white-space: normal; }
  .tiles { margin: 8px 0; } .tile { padding: 6px 10px; } .tile b { font-size: 19px; } .tile span { font-size: 12px; }
  .row { gap: 8px 20px; } .row > figure { zoom: 0.78; } .row:has(> figure) { break-inside: avoid; }
  .row > .wide { flex-basis: 300px; min-width: min-content; }
  th:first-child, td:first-child { min-width: 64px; }
  figure, tr, .tile { break-inside: avoid; } h2, h3, tr.group { break-after: avoid; } .scroll { overflow: visible; }
  nav { display: none; } }
"""


def text(value: object) -> str:
    """Text for HTML: nothing in it is markup."""
    return escape(str(value))


def text_colour(background: str) -> str:
    """Black or white, whichever is easier to read on ``#rrggbb`` (by the contrast ratio of WCAG 2)."""
    parts = [int(background[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#fff"


def paragraph(content: str, style: str = "") -> str:
    """A paragraph; ``content`` is HTML."""
    return f'<p class="{style}">{content}</p>' if style else f"<p>{content}</p>"


def tiles(items: Sequence[tuple[str, str]]) -> str:
    """Large figures with a few words under each: ``(figure, words)``."""
    cells = "".join(
        f'<div class="tile"><b>{text(figure)}</b><span>{text(words)}</span></div>' for figure, words in items
    )
    return f'<div class="tiles">{cells}</div>'


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, groups: Sequence[str] = (), as_cards: bool = False
) -> str:
    """A table; headings and groups are text, cells are HTML. It scrolls by itself where the screen is narrow.

    Args:
        headings: of the columns.
        rows: their cells.
        groups: the group of each row, written above its first row.
        as_cards: where the screen is narrow, each row is a list of headings and cells instead.
    """
    head = "".join(f'<th scope="col">{text(heading)}</th>' for heading in headings)
    body, last = [], None
    for number, row in enumerate(rows):
        if groups and groups[number] != last:
            last = groups[number]
            body.append(f'<tr class="group"><th colspan="{len(headings)}">{text(last)}</th></tr>')
        cells = zip(headings, row, strict=True)
        body.append(
            "<tr>" + "".join(f'<td data-heading="{text(heading)}"><div>{cell}</div></td>' for heading, cell in cells)
            + "</tr>"
        )  # fmt: skip
    style = ' class="cards"' if as_cards else ""
    return (
        f'<div class="scroll"><table{style}><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def figure(picture: str, caption: str, width: int = 340) -> str:
    """A picture (HTML), ``width`` pixels wide, with one sentence (text) that says what it shows."""
    return f'<figure style="width:{width}px">{picture}<figcaption>{text(caption)}</figcaption></figure>'


def row(*parts: str) -> str:
    """Parts side by side where the screen is wide enough."""
    return f'<div class="row">{"".join(parts)}</div>'


def wide(*parts: str) -> str:
    """A part of a row that takes what the others leave."""
    return f'<div class="wide">{"".join(parts)}</div>'


def key(items: Sequence[tuple[str, str]]) -> str:
    """What the colours mean: ``(colour, words)``."""
    entries = "".join(f'<li><i style="background:{colour}"></i>{text(words)}</li>' for colour, words in items)
    return f'<ul class="key">{entries}</ul>'


def numbered_key(items: Sequence[tuple[str, str]]) -> str:
    """What the colours and the numbers in them mean: ``(colour, words)``, numbered from 1."""
    entries = "".join(
        f'<li><i class="number" style="background:{colour};color:{text_colour(colour)}">{number}</i>{text(words)}</li>'
        for number, (colour, words) in enumerate(items, start=1)
    )
    return f'<ul class="key">{entries}</ul>'


def drawn_key(items: Sequence[tuple[str, str]]) -> str:
    """What markers mean: ``(an <svg>, words)``."""
    return f'<ul class="key">{"".join(f"<li>{svg}{text(words)}</li>" for svg, words in items)}</ul>'


def contents(items: Sequence[tuple[str, str]]) -> str:
    """Links to sections: ``(anchor, words)``."""
    links = "".join(f'<a href="#{anchor}">{text(words)}</a>' for anchor, words in items)
    return f'<nav aria-label="Sections">{links}</nav>'


def section(title: str, *parts: str, anchor: str = "") -> str:
    """A headed section."""
    place = f' id="{anchor}"' if anchor else ""
    return f"<section{place}><h2>{text(title)}</h2>{''.join(parts)}</section>"


def page(title: str, lead: str, sections: Sequence[str], footer: str) -> str:
    """A whole page. ``title`` is text; ``lead``, ``sections`` and ``footer`` are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n<body><main><h1>{text(title)}</h1>"
        f'<p class="lead">{lead}</p>\n' + "\n".join(sections) + f"\n<footer>{footer}</footer></main></body></html>\n"
    )
