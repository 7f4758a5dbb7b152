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
footer { margin-top: 48px; padding-top: 12px; border-top: 1px solid var(--line); color: var(--soft); font-size: 13px; }
@media (max-width: 480px) { th, td { padding: 5px 6px; } td:first-child { min-width: 104px; }
  table { font-size: 13px; } h1 { font-size: 23px; } }
@media print { :root { --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --panel: #fff; --good: #00694d;
  --bad: #a33b00; --accent: #0072B2; --neutral: #8d97a3; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; }
  figure, table, .tile { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; } }
"""


def text(value: object) -> str:
    """Text for HTML: nothing in it is markup."""
    return escape(str(value))


def paragraph(content: str, style: str = "") -> str:
    """A paragraph; ``content`` is HTML."""
    return f'<p class="{style}">{content}</p>' if style else f"<p>{content}</p>"


def tiles(items: Sequence[tuple[str, str]]) -> str:
    """Large figures with a few words under each: ``(figure, words)``."""
    cells = "".join(
        f'<div class="tile"><b>{text(figure)}</b><span>{text(words)}</span></div>' for figure, words in items
    )
    return f'<div class="tiles">{cells}</div>'


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; headings are text, cells are HTML. It scrolls by itself where the screen is narrow."""
    head = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


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


def section(title: str, *parts: str) -> str:
    """A headed section."""
    return f"<section><h2>{text(title)}</h2>{''.join(parts)}</section>"


def page(title: str, lead: str, sections: Sequence[str], footer: str) -> str:
    """A whole page. ``title`` is text; ``lead``, ``sections`` and ``footer`` are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n<body><main><h1>{text(title)}</h1>"
        f'<p class="lead">{lead}</p>\n' + "\n".join(sections) + f"\n<footer>{footer}</footer></main></body></html>\n"
    )
