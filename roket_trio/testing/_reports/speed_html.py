"""Results of ``roket bench`` as a page, or as a section of another page. Pure.

The bars are drawn to scale, none is cut, and a bracket on each shows its interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from .._results.case_result import storable
from .._results.speed_result import SpeedResult
from .speed_table import by_job

_STYLE: Final = """
.roket-speed { font: 15px/1.5 system-ui, sans-serif; margin: 2em 0; max-width: 70em; }
.roket-speed table { border-collapse: collapse; width: 100%; }
.roket-speed th, .roket-speed td { padding: .3em .6em; text-align: right; border-bottom: 1px solid #8884; }
.roket-speed th:first-child, .roket-speed td:first-child { text-align: left; overflow-wrap: anywhere; }
.roket-speed td.bar { width: 35%; min-width: 8em; }
.roket-speed td.bar svg { display: block; width: 100%; height: 1.1em; overflow: visible; }
.roket-speed .fail, .roket-speed .error { color: #c62828; font-weight: 600; }
.roket-speed .pass { color: #2e7d32; }
.roket-speed .inconclusive { color: #b26a00; }
.roket-speed p { margin: .2em 0 .2em 1em; }
.roket-speed .scroll { overflow-x: auto; }
@media (prefers-color-scheme: dark) {
  .roket-speed .fail, .roket-speed .error { color: #ff8a80; }
  .roket-speed .pass { color: #81c784; }
  .roket-speed .inconclusive { color: #ffb74d; }
}
"""
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
</head>
<body>
<h1>{title}</h1>
{section}</body>
</html>
"""
_HEADS: Final = ("program", "times the ceiling", "", "MiB/s", "CPU s/GiB", "peak MiB", "start s", "verdict")


def render_speed_page(results: Iterable[SpeedResult], *, title: str = "How fast programs move bytes") -> str:
    """A page that needs nothing else. Everything in it that comes from programs is text, and never markup."""
    return _PAGE.format(title=escape(storable(title)), section=speed_section(results))


def speed_section(results: Iterable[SpeedResult]) -> str:
    """The tables alone, for a page that shows other results too; empty if there are none."""
    parts = by_job(results)
    if not parts:
        return ""
    text = "".join(_table(part) for part in parts)
    return f'<section class="roket-speed" id="speed">\n<style>{_STYLE}</style>\n{text}</section>\n'


def added_to(page: str, results: Iterable[SpeedResult]) -> str:
    """A page with the section at its end."""
    before, mark, after = page.rpartition("</body>")
    return before + speed_section(results) + mark + after if mark else page + speed_section(results)


def _table(results: Sequence[SpeedResult]) -> str:
    head = results[0]
    most = max([1.0, *(result.high for result in results)])
    lines = [f"<h2>{_text(head.job)}, {head.mib} MiB</h2>", '<div class="scroll"><table>', "<tr>"]
    lines += [f"<th>{_text(name)}</th>" for name in _HEADS]
    lines.append("</tr>")
    lines += [_row(result, most) for result in results]
    lines.append("</table></div>")
    for result in results:
        for remark in filter(None, (result.reason, *result.notes)):
            lines.append(f"<p>{_text(f'{result.program}: {remark}')}</p>")
    machine = ", ".join(f"{name}: {value}" for name, value in head.fingerprint.items())
    lines.append(f"<p><small>{head.rounds} rounds; {_text(machine)}</small></p>")
    return "\n".join(lines) + "\n"


def _row(result: SpeedResult, most: float) -> str:
    verdict = f'<td class="{_text(result.verdict)}">{_text(result.verdict)}</td>'
    name = f"<td>{_text(result.program)}</td>"
    if not result.rounds:
        return f"<tr>{name}{'<td></td>' * (len(_HEADS) - 2)}{verdict}</tr>"
    figures = [
        f"{result.ratio:.2f} [{result.low:.2f} {result.high:.2f}]",
        "",
        f"{result.mib_per_second:,.0f}",
        f"{result.cpu_seconds_per_gib:.2f}",
        f"{result.peak_rss_kib / 1024:.1f}",
        f"{result.start_seconds:.3f}",
    ]
    cells = [f"<td>{_text(figure)}</td>" for figure in figures]
    cells[1] = f'<td class="bar">{_bar(result, most)}</td>'
    return f"<tr>{name}{''.join(cells)}{verdict}</tr>"


def _bar(result: SpeedResult, most: float) -> str:
    """The ratio, to the scale of the table's longest, with a bracket for its interval and a line at the ceiling."""
    at, low, high, one = (f"{value / most * 100:.2f}%" for value in (result.ratio, result.low, result.high, 1.0))
    return (
        f'<svg role="img" aria-label="{result.ratio:.2f} times the ceiling">'
        f'<rect x="0" y="25%" height="50%" width="{at}" fill="#0072b2" opacity=".75"></rect>'
        f'<line x1="{low}" x2="{high}" y1="50%" y2="50%" stroke="currentColor"></line>'
        f'<line x1="{low}" x2="{low}" y1="20%" y2="80%" stroke="currentColor"></line>'
        f'<line x1="{high}" x2="{high}" y1="20%" y2="80%" stroke="currentColor"></line>'
        f'<line x1="{one}" x2="{one}" y1="0" y2="100%" stroke="#d55e00" stroke-dasharray="2"></line></svg>'
    )


def _text(text: str) -> str:
    return escape(storable(text))
