"""``python -m benchmarks plot``: pictures of what was measured, for light and for dark pages.

``headline`` a few jobs beside the usual ways, for the README
``ratios``   how many times what the ceiling takes, with intervals
``scaling``  throughput from 1 to 1,000 transfers at once
``memory``   what Python holds at once during a transfer
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cases import CASES
from ..loops import LOOPS
from .records import Record, latest
from .svg import THEMES, Canvas, Theme

WIDTH = 860
_LABELS = 268
_BARS = 420
_ROW = 17
_BAR = 11

SCALES = {f"scale-{many}": many for many in (1, 10, 100, 1000)}
GIB = 1 << 30

_HEADLINE = ["file-read", "file-to-socket", "socket-to-file", "relay"]

# Bars end here; the figure beside them does not.
TIMES_MOST = 25.0
KIB_LIMIT = 512.0


def draw(records: Sequence[Record], directory: Path) -> list[Path]:
    """Draw what there are records for; returns the files.

    :raises OSError: the directory cannot be written to
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (cases, plot) in PLOTS.items():
        if (found := latest(records, list(cases))) is None:
            continue
        for theme in THEMES:
            if (picture := plot(theme, *found)) is not None:
                path = directory / f"{name}-{theme.name}.svg"
                path.write_text(picture, encoding="utf-8")
                written.append(path)
    return written


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart."""

    label: str
    role: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None


def _ratios(theme: Theme, run: Record, rows: Sequence[Record]) -> str | None:
    def bar(row: Record) -> Bar | None:
        ratio = row["ratios"].get("× ceiling")
        if ratio is None or row["role"] == "ceiling":
            return None
        between = f"   {ratio['low']:.2f} to {ratio['high']:.2f}" if ratio["low"] is not None else ""
        return Bar(
            row["way"], row["role"], ratio["value"], f"{ratio['value']:.2f}×{between}", ratio["low"], ratio["high"]
        )

    title = "Times what blocking code takes (the line at 1): shorter is better"
    return _bars(theme, run, rows, bar, title, most=TIMES_MOST, mark=1.0, mark_text="1×")


def _headline(theme: Theme, run: Record, rows: Sequence[Record]) -> str | None:
    return _ratios(theme, run, [row for row in rows if row["role"] != "peer"])


def _memory(theme: Theme, run: Record, rows: Sequence[Record]) -> str | None:
    def bar(row: Record) -> Bar | None:
        kib = row["peak_python_kib"]
        if kib is None or row["role"] not in ("roket", "idiom"):
            return None
        return Bar(row["way"], row["role"], kib, f"{kib:,.0f} KiB")

    title = "What Python holds at once during a transfer (the line at 512 KiB is the limit)"
    grown = [row["ratios"]["RSS growth, KiB"]["value"] for row in rows if row["case"].startswith("memory-")]
    note = (
        f"A transfer 64 times as large (into a file: 4 times) makes the process grow by {max(grown):,.0f} KiB at most."
        if grown
        else ""
    )
    return _bars(theme, run, rows, bar, title, most=KIB_LIMIT * 1.05, mark=KIB_LIMIT, mark_text="512 KiB", note=note)


def _bars(
    theme: Theme,
    run: Record,
    rows: Sequence[Record],
    bar_of: Callable[[Record], Bar | None],
    title: str,
    *,
    most: float,
    mark: float,
    mark_text: str,
    note: str = "",
) -> str | None:
    sections = [(name, [bar for row in rows if row["case"] == name and (bar := bar_of(row))]) for name in CASES]
    sections = [(name, bars) for name, bars in sections if any(bar.role == "roket" for bar in bars)]
    if not sections:
        return None
    reach = min(most, max([mark * 1.1, *(bar.high or bar.value for _, bars in sections for bar in bars)]))
    canvas = Canvas(theme, WIDTH, title, _where(run))
    canvas.text(16, 28, title, size=15, bold=True)
    canvas.text(16, 46, _where(run), size=11, color=theme.faint_ink)
    colors = {"roket": theme.ours, "idiom": theme.usual, "peer": theme.others}

    def x_of(value: float) -> float:
        return _LABELS + _BARS * min(value, reach) / reach

    keys = {"roket": "roket_trio", "peer": "other languages, asyncio", "idiom": "the usual 64 KiB loops"}
    x = 16.0
    for role, key in keys.items():
        if any(bar.role == role for _, bars in sections for bar in bars):
            canvas.bar(x, 56, _BAR, _BAR, colors[role])
            canvas.text(x + 16, 66, key, size=11, color=theme.faint_ink)
            x += 30 + 6.2 * len(key)
    y = 74.0

    for name, bars in sections:
        y += 24
        canvas.text(16, y, CASES[name].title, bold=True)
        y += 8
        top = y
        for bar in sorted(bars, key=lambda bar: ["roket", "peer", "idiom"].index(bar.role)):
            ink = theme.ink if bar.role == "roket" else theme.faint_ink
            canvas.text(_LABELS - 8, y + _BAR - 1, bar.label, size=11, color=ink, anchor="end")
            canvas.bar(_LABELS, y, x_of(bar.value) - _LABELS, _BAR, colors[bar.role])
            if bar.low is not None and bar.high is not None:
                canvas.line([(x_of(bar.low), y + _BAR / 2), (x_of(bar.high), y + _BAR / 2)], theme.ink)
            right = x_of(max(bar.value, bar.high or 0))
            canvas.text(right + 6, y + _BAR - 1, bar.text, size=11, color=ink, bold=bar.role == "roket")
            y += _ROW
        canvas.line([(x_of(mark), top - 3), (x_of(mark), y - 2)], theme.ink, dash="3 2")
    canvas.text(x_of(mark), y + 14, mark_text, size=11, color=theme.faint_ink, anchor="middle")
    y += 24
    if note:
        canvas.text(16, y + 8, note, size=11, color=theme.faint_ink)
        y += 18
    return canvas.document(y + 6)


def _scaling(theme: Theme, run: Record, rows: Sequence[Record]) -> str | None:
    title = "Throughput of 1 to 1,000 transfers at once (file → socket, a GiB together)"
    canvas = Canvas(theme, WIDTH, title, _where(run))
    canvas.text(16, 28, title, size=15, bold=True)
    canvas.text(16, 46, _where(run), size=11, color=theme.faint_ink)
    left, right, top, bottom = 60.0, WIDTH - 250.0, 76.0, 360.0
    curves = list(_curves(rows))
    if not curves:
        return None
    step = _nice_step(max(rate for _, _, points in curves for _, rate in points))
    highest = step * math.ceil(max(rate for _, _, points in curves for _, rate in points) / step)

    def place(many: int, rate: float) -> tuple[float, float]:
        return left + (right - left) * math.log10(many) / 3, bottom - (bottom - top) * rate / highest

    canvas.text(left - 8, top - 12, "GiB/s", size=11, color=theme.faint_ink, anchor="end")
    for number in range(round(highest / step) + 1):
        _, y = place(1, number * step)
        canvas.line([(left, y), (right, y)], theme.line)
        canvas.text(left - 8, y + 4, f"{number * step:g}", size=11, color=theme.faint_ink, anchor="end")
    for many in SCALES.values():
        anchor = "end" if many == max(SCALES.values()) else "middle"  # beside it a curve may have its name
        canvas.text(place(many, 0)[0], bottom + 18, f"{many:,}", size=11, color=theme.faint_ink, anchor=anchor)
    colors = dict(zip(LOOPS, theme.loops, strict=True))
    ends = []
    for label, row, points in curves:
        color = colors[row["loop"]] if row["role"] == "roket" else theme.usual
        placed = [place(many, rate) for many, rate in points]
        canvas.line(placed, color, width=2, dash="5 3" if row["role"] == "ceiling" else "")
        for x, y in placed:
            canvas.dot(x, y, color)
        ends.append((placed[-1][1], label, color if row["role"] == "roket" else theme.faint_ink))
    beside = -math.inf
    for y, label, color in sorted(ends):
        beside = max(y + 4, beside + 14)
        canvas.text(right + 10, beside, label, size=11, color=color)
    return canvas.document(max(bottom + 34, beside + 12))


def _curves(rows: Sequence[Record]) -> Iterator[tuple[str, Record, list[tuple[int, float]]]]:
    for way in dict.fromkeys(row["way"] for row in rows):
        own = sorted((row for row in rows if row["way"] == way), key=lambda row: SCALES[row["case"]])
        yield way, own[0], [(SCALES[row["case"]], row["bytes"] / row["median"] / GIB) for row in own]


def _nice_step(highest: float) -> float:
    """The distance between grid lines, so that there are three to eight of them."""
    magnitude: float = 10.0 ** math.floor(math.log10(highest))
    return next(magnitude * step for step in (0.2, 0.5, 1, 2) if highest / (magnitude * step) <= 7)


def _where(run: Record) -> str:
    where, settings = run["fingerprint"], run["settings"]
    return (
        f"{settings['bytes'] >> 20} MiB, {settings['rounds']} rounds, warm, loopback; "
        f"{where['cpu']}; {where['kernel']}; {where['python']}; {where['commit']}"
    )


PLOTS = {
    "headline": (_HEADLINE, _headline),
    "ratios": ([name for name, case in CASES.items() if not case.long], _ratios),
    "scaling": (list(SCALES), _scaling),
    "memory": (
        [name for name, case in CASES.items() if not case.long and case.unit == "transfer" and name != "scale"],
        _memory,
    ),
}
