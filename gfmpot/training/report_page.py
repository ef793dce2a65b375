"""A report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from gfmpot.training.report_style import Picture

MISSING = "–"

_CSS = """
:root { color-scheme: light dark; --ink: #2b2b2b; --muted: #6f6f6f; --line: #dedede; --page: #ffffff; --band: #f6f6f6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dddddd; --muted: #9b9b9b; --line: #3a3a3a; --page: #0d0d0d; --band: #1a1a1a; }
  img { filter: invert(0.95) hue-rotate(180deg); }
}
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 70rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
p, figcaption, footer { color: var(--muted); }
nav a { margin-right: 1.1rem; color: inherit; }
figure { margin: 1rem 0 1.75rem; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .9rem; margin-top: .35rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(28rem, 100%), 1fr)); gap: 0 1.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; margin: .5rem 0 1.25rem; }
caption { text-align: left; color: var(--muted); padding-bottom: .35rem; }
th, td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
td:first-child { white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
pre { background: var(--band); padding: .9rem 1rem; overflow-x: auto; font-size: .85rem; line-height: 1.4; }
"""


@dataclass
class Section:
    """A heading, with HTML below it."""

    title: str
    parts: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """What links lead to."""
        return self.title.lower().replace(" ", "-")


def page(title: str, lead: str, sections: Iterable[Section], footer: str) -> str:
    """The whole page; sections without parts are left out."""
    filled = [section for section in sections if section.parts]
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in filled)
    body = "".join(f'<h2 id="{s.anchor}">{escape(s.title)}</h2>{"".join(s.parts)}' for s in filled)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>{escape(lead)}</p><nav>{links}</nav>{body}"
        f"<footer><p>{escape(footer)}</p></footer></body></html>\n"
    )


def figure(picture: Picture | None) -> list[str]:
    """A picture inside the page, or nothing."""
    if picture is None:
        return []
    data = base64.b64encode(picture.png).decode()
    caption = escape(picture.caption)
    image = f'<img src="data:image/png;base64,{data}" alt="{caption}">'
    return [f"<figure>{image}<figcaption>{caption}</figcaption></figure>"]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """Numbers are aligned right, in columns where all are numbers."""
    kinds = [' class="number"' if all(_is_number(row[i]) for row in rows) else "" for i in range(len(columns))]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{escape(text(cell))}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>"
        for row in rows
    )
    about = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{about}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(pairs: Mapping[str, Any]) -> str:
    """Names and values, one per line; what is unknown is left out."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(text(value))}</td></tr>"
        for name, value in pairs.items()
        if value not in (None, "")
    )
    return f"<table><tbody>{rows}</tbody></table>"


def text(value: Any) -> str:
    """Numbers with four digits; what is undefined as a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text(item)}" for key, item in value.items())
    return ", ".join(map(text, value)) if isinstance(value, list | tuple) else str(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value == MISSING or value.endswith("%")
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
