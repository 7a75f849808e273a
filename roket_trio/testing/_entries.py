"""Verdicts as lines of JSON, in the schema of ``roket check`` (``roket.close/1``). Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any, Final

from ._following import Finding
from ._records import Linger, SocketRecord
from ._watched import Judged

_SCHEMA: Final = "roket.close/1"
_VERDICTS: Final = {True: "pass", False: "fail", None: "not-observed"}


def entry_of_connection(test: str, judged: Judged) -> dict[str, Any]:
    """One connection to a scripted peer."""
    verdict = judged.verdict
    began = judged.events[0][1].at if judged.events else 0.0
    events = [
        {
            "ms": round((event.at - began) * 1000, 3),
            "kind": event.kind,
            "bytes": event.count,
            "detail": f"{by}: {event.detail}" if by and event.detail else by or event.detail,
        }
        for by, event in judged.events
    ]
    return _entry(
        test,
        role=judged.role,
        close=verdict.close,
        verdict=_VERDICTS[verdict.passed],
        bytes=sum(event.count for _, event in judged.events if event.kind == "received"),
        ms=None if verdict.seconds is None else round(verdict.seconds * 1000, 3),
        events=events,
        observer=judged.observer,
        detail=". ".join(filter(None, (verdict.headline, verdict.why))),
    )


def entry_of_leaks(test: str, left: Iterable[SocketRecord], observers: str) -> dict[str, Any]:
    """Whether one test has left sockets."""
    told = [f"{record} ({(record.linger or Linger.OPEN).value})" for record in left]
    return _entry(
        test,
        role="process",
        close="leaked" if told else "clean",
        verdict="fail" if told else "pass",
        observer=observers,
        detail="; ".join(told),
    )


def entry_of_finding(finding: Finding, observers: str) -> dict[str, Any]:
    """One socket that the census of a whole suite has found."""
    return _entry(
        finding.whose,
        role="process",
        close="late" if finding.fault == "LATE" else "leaked",
        verdict="fail" if finding.is_accusation else "not-observed",
        observer=observers,
        detail="; ".join(filter(None, (finding.socket, finding.why, finding.remark, finding.opened_at))),
    )


def _entry(
    test: str,
    *,
    role: str,
    close: str,
    verdict: str,
    observer: str,
    detail: str,
    bytes: int = 0,
    ms: float | None = None,
    events: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "case": test,
        "level": "MUST",
        "role": role,
        "target": "pytest",
        "data": "not observed",
        "close": close,
        "verdict": verdict,
        "bytes": bytes,
        "ms": ms,
        "events": list(events),
        "observer": observer,
        "repro": f"pytest {shlex.quote(test)}",
        "detail": detail,
    }
