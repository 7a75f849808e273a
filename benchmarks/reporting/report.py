"""The table for people, the JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..job import Case
from ..results.rows import Ratio, Row
from . import records

_HEADINGS = ("", "median", "min", "max", "avg", "CPU s/GiB", "calls/GiB", "× ceiling", "× faster", "× trio", "route")


def heading(fingerprint: Mapping[str, str], size: int, rounds: int, sink: str) -> str:
    """What is measured where, and how to read the table."""
    lines = [f"{name}: {value}" for name, value in fingerprint.items()]
    lines.append(f"{size >> 20} MiB, {rounds} rounds in random order, warm page cache, loopback, the sink: {sink}")
    lines.append("× ceiling: times what blocking code takes. × faster: than the fastest idiom on the same loop.")
    lines.append("× trio: times what the same takes on Trio. [a b]: where the ratio is, in 19 of 20 runs (bootstrap).")
    lines.append("calls: system calls, a GiB or a unit. A limit stands beside its figure; ! where it is not kept.")
    return "\n".join(lines)


def table(case: Case, rows: Sequence[Row]) -> str:
    """The table of one case."""
    unit, factor = ("ms", 1e3) if case.unit == "transfer" else (f"µs a {case.unit}", 1e6)
    cells = [list(_HEADINGS), *(_cells(row, factor) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    lines = [f"{case.title} ({case.name}), {unit}"]
    for line in cells:
        name, *figures, route = line
        padded = (figure.rjust(width) for figure, width in zip(figures, widths[1:-1], strict=True))
        lines.append("  ".join(["  " + name.ljust(widths[0]), *padded, route]).rstrip())
    for row in rows:
        extra = {name: ratio for name, ratio in row.asked().items() if name not in _HEADINGS}
        if extra:
            found = ", ".join(f"{name} {_ratio(ratio, _sign(name))}" for name, ratio in extra.items())
            lines.append(f"    {row.way}: {found}")
    return "\n".join(lines)


def _sign(name: str) -> str:
    return "≥" if name in ("× faster", "× less CPU") else "≤"


def _cells(row: Row, factor: float) -> list[str]:
    times = (row.median, row.minimum, row.maximum, row.average)
    return [
        row.way,
        *(f"{seconds * factor:.1f}" for seconds in times),
        f"{row.cpu_seconds_per_gib:.2f}" if row.unit == "transfer" else "",
        "" if row.syscalls is None else f"{row.syscalls:,.0f}",
        _ratio(row.times_ceiling, "≤"),
        _ratio(row.times_faster, "≥"),
        _ratio(row.times_trio, "≤"),
        row.route,
    ]


def _ratio(ratio: Ratio | None, sign: str) -> str:
    if ratio is None:
        return ""
    found = f"{ratio.value:.2f}"
    if ratio.between is not None and ratio.between.low < ratio.between.high:
        found += f" [{ratio.between.low:.2f} {ratio.between.high:.2f}]"
    if ratio.limit is None:
        return found
    return f"{found} {sign} {ratio.limit:.4g}" + ("" if ratio.holds else " !")


def verdict(rows: Sequence[Row]) -> str:
    """How many limits hold, and which do not."""
    missed = list(_missed(rows))
    asked = sum(ratio.holds is not None for row in rows for ratio in row.asked().values())
    if not missed:
        return f"All {asked} limits hold."
    return "\n".join([f"{len(missed)} of {asked} limits do not hold:", *missed])


def _missed(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        for name, ratio in row.asked().items():
            if ratio.holds is False:
                yield f"  {row.case}, {row.way}: {ratio.value:.2f} {name}, limit {_sign(name)} {ratio.limit:.4g}"


def as_json(fingerprint: Mapping[str, str], size: int, rounds: int, sink: str, results: Sequence[Row]) -> str:
    """One object: schema, fingerprint, settings, rows."""
    document: dict[str, Any] = {
        "schema": records.SCHEMA,
        "fingerprint": dict(fingerprint),
        "settings": {"bytes": size, "rounds": rounds, "sink": sink},
        "rows": [asdict(row) for row in results],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
