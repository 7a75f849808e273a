"""The results of the pytest plugin as lines of JSON, in the schema of ``roket check``. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .._census.records import Linger, SocketRecord
from .._leaks.tracker import LeakFinding
from .._results.case_result import CaseResult, ResultEvent, Role
from .._results.close_verdict import Close, Verdict

if TYPE_CHECKING:  # it loads the peers, which a census does without
    from .._expectations.watched import ConnectionResult


def result_of_connection(test: str, number: int, result: ConnectionResult) -> str:
    """The line for one connection of a test to a scripted peer or relay."""
    verdict = result.verdict
    began = result.events[0][1].at if result.events else 0.0
    events = tuple(
        ResultEvent(
            round((event.at - began) * 1000), "peer", number, event.kind, event.count, f"{by} {event.detail}".strip()
        )
        for by, event in result.events
    )
    return _result_line(
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


def result_of_leaks(test: str, left: Iterable[SocketRecord], observers: Iterable[str]) -> str:
    """The line that says whether a test has left sockets open."""
    leaks = [f"{record} ({(record.linger or Linger.OPEN).value})" for record in left]
    return _result_line(
        test,
        "leaks",
        0,
        close="leaked" if leaks else "clean",
        verdict="fail" if leaks else "pass",
        observer=", ".join(sorted(observers)),
        reason="; ".join(leaks) or "it left no socket",
    )


def results_of_findings(findings: Iterable[LeakFinding], observers: Iterable[str]) -> Iterator[str]:
    """The lines for the sockets that the census of a whole suite has found."""
    numbers: Counter[str] = Counter()
    for finding in findings:
        yield _result_of_finding(finding, numbers[finding.owner], observers)
        numbers[finding.owner] += 1


def _result_of_finding(finding: LeakFinding, number: int, observers: Iterable[str]) -> str:
    return _result_line(
        finding.owner,
        "census",
        number,
        close="late" if finding.fault == "LATE" else "leaked",
        verdict="fail" if finding.is_failure else "not-observed",
        observer=", ".join(sorted(observers)),
        reason="; ".join(filter(None, (finding.socket, finding.why, finding.remark, finding.opened_at))),
    )


def _result_line(
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
    """One line.

    :param number: counts the results of one test and kind, from 0. Each gets a name of its own, since a report shows
        the last result of a name only
    """
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
