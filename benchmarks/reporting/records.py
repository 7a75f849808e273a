"""Results as JSON lines: what ``run --record`` appends to ``history.jsonl``, and what ``plot`` draws from.

A run is a line for itself, and one for each way of each case. The first has

``kind``         "run"
``schema``       the number below; it changes when a field changes its meaning
``id``           the time (UTC) when the run ended; its rows name it
``fingerprint``  CPU, kernel, congestion control, file system, load, versions, commit, as text
``settings``     ``bytes``: the size of a full transfer; ``rounds``; ``sink``: how the receiver takes the bytes;
                 ``cache``: "warm", but for cases whose name ends with "-cold"

and each of the others, see :class:`benchmarks.results.rows.Row`,

``kind``         "row"
``run``          the ``id`` of its run
``case``, ``way``, ``role``, ``loop``, ``unit``, ``bytes``, ``route``
``median``, ``average``, ``minimum``, ``maximum``
                 seconds for a unit
``cpu_seconds_per_gib``
``switches``, ``syscalls``, ``allocations``
                 for each GiB, or each unit that is no transfer; null: not counted
``hops``, ``peak_python_kib``, ``peak_rss_kib``
                 of one run; null: not counted
``ratios``       by name ("× ceiling", ...): value, low and high (of 19 in 20 runs), limit, holds

What a reader does not know it skips. The seconds of every round are in ``run --json`` only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..endpoints.processes import ROOT
from ..results.rows import Ratio, Row

SCHEMA = 3
HISTORY = ROOT / "benchmarks" / "history.jsonl"

Record = dict[str, Any]


def of_run(fingerprint: Mapping[str, str], size: int, rounds: int, sink: str, rows: Sequence[Row]) -> list[Record]:
    """The records of a run that has ended."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    settings = {"bytes": size, "rounds": rounds, "sink": sink, "cache": "warm"}
    run = {"kind": "run", "schema": SCHEMA, "id": now, "fingerprint": dict(fingerprint), "settings": settings}
    return [run, *(_of_row(now, row) for row in rows)]


def _of_row(run: str, row: Row) -> Record:
    ratios = {name: _of_ratio(ratio) for name, ratio in row.asked().items()}
    left_out = {"seconds", "times_ceiling", "times_faster", "times_trio", "times_less_cpu", "figures"}
    plain = {name: _rounded(value) for name, value in asdict(row).items() if name not in left_out}
    return {"kind": "row", "run": run, **plain, "ratios": ratios}


def _of_ratio(ratio: Ratio) -> Record:
    found = {"value": ratio.value, **(asdict(ratio.between) if ratio.between else {"low": None, "high": None})}
    return {**{name: _rounded(value) for name, value in found.items()}, "limit": ratio.limit, "holds": ratio.holds}


def _rounded(value: object) -> object:
    """Six digits: more would be noise that grows."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def append(path: Path, records: Sequence[Record]) -> None:
    """Add them to a file, which need not exist."""
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")


def read(path: Path) -> list[Record]:
    """All there are.

    :raises OSError: the file cannot be read
    :raises ValueError: it is no JSON lines
    """
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def latest(records: Sequence[Record], cases: Sequence[str]) -> tuple[Record, list[Record]] | None:
    """The latest run that has any of the ``cases``, and its rows of these; figures of two runs are never mixed."""
    for run in reversed([record for record in records if record["kind"] == "run"]):
        own = [record for record in records if record["kind"] == "row" and record["run"] == run["id"]]
        rows = [record for record in own if record["case"] in cases]
        if rows:
            return run, rows
    return None
