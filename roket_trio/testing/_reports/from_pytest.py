"""What the pytest plugin has found, as lines of the schema of ``roket check``. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator

from .._census.records import Linger, SocketRecord
from .._expectations.watched import ConnectionResult
from .._leaks.tracker import Finding
from .._results.case_result import CaseResult, ResultEvent, Role
from .._results.close import Close, Verdict


def entry_of_connection(test: str, number: int, result: ConnectionResult) -> str:
    """One of a test's connections to scripted peers."""
    verdict = result.verdict
    began = result.events[0][1].at if result.events else 0.0
    events = tuple(
        ResultEvent(
            round((event.at - began) * 1000), "peer", number, event.kind, event.count, f"{by} {event.detail}".strip()
        )
        for by, event in result.events
    )
    return _entry(
        test,
        "connections",
        number,
        close=verdict.close,
        verdict=verdict.verdict,
        observer=result.observer,
        reason="; ".join(filter(None, result.explanation[:2])),
        role=result.role,
        moved=sum(event.count for _, event in result.events if event.kind == "received"),
        seconds=verdict.seconds or 0.0,
        events=events,
    )


def entry_of_leaks(test: str, left: Iterable[SocketRecord], observers: Iterable[str]) -> str:
    """Whether one test has left sockets."""
    told = [f"{record} ({(record.linger or Linger.OPEN).value})" for record in left]
    return _entry(
        test,
        "leaks",
        0,
        close="leaked" if told else "clean",
        verdict="fail" if told else "pass",
        observer=", ".join(sorted(observers)),
        reason="; ".join(told) or "it left no socket",
    )


def entries_of_findings(findings: Iterable[Finding], observers: Iterable[str]) -> Iterator[str]:
    """The sockets that the census of a whole suite has found."""
    numbers: Counter[str] = Counter()
    for finding in findings:
        yield _entry_of_finding(finding, numbers[finding.whose], observers)
        numbers[finding.whose] += 1


def _entry_of_finding(finding: Finding, number: int, observers: Iterable[str]) -> str:
    return _entry(
        finding.whose,
        "census",
        number,
        close="late" if finding.fault == "LATE" else "leaked",
        verdict="fail" if finding.is_accusation else "not-observed",
        observer=", ".join(sorted(observers)),
        reason="; ".join(filter(None, (finding.socket, finding.why, finding.remark, finding.opened_at))),
    )


def _entry(
    test: str,
    what: str,
    number: int,
    *,
    close: Close,
    verdict: Verdict,
    observer: str,
    reason: str,
    role: Role = "client",
    moved: int = 0,
    seconds: float = 0.0,
    events: tuple[ResultEvent, ...] = (),
) -> str:
    """``number``: of several for one test, from 0. Each has a name of its own: a report shows the last of one name."""
    return CaseResult(
        case=f"{test} ({number + 1})" if number else test,
        level="MUST",
        role=role,
        target=f"pytest: {what}",
        data="not-observed",
        close=close,
        verdict=verdict,
        bytes=moved,
        ms=round(seconds * 1000),
        events=events,
        observer=observer,
        repro=f"pytest {shlex.quote(test)}",
        reason=reason,
    ).to_json()
