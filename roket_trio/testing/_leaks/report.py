"""The leak report of a test run, and the failure message of one test that left sockets open. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple, final

from .._census.records import Linger, SocketRecord
from .._results.wrapping import wrapped
from .tracker import ABANDONED, LeakFinding, TrackedSocket

_SHOWN: Final = 5  # sockets for one test and fault

_PREDICATES: Final = {
    Linger.CLOSE_WAIT.name: "left {} in CLOSE_WAIT",
    Linger.QUEUED_CLOSE_WAIT.name: "left {} in CLOSE_WAIT, not accepted",
    Linger.OVER.name: "left {} open whose connection is over",
    Linger.PEER_GONE.name: "left {} open whose peer has closed",
    Linger.OPEN.name: "left {} open",
    "ABANDONED": "left {} to the garbage collector",
    "LATE": "opened {} that stayed in CLOSE_WAIT, and closed in the end",
}


class ReportLine(NamedTuple):
    """A line for a terminal."""

    text: str
    style: str = ""
    """``red``, ``yellow``, ``green`` or nothing."""


@final
@dataclass(slots=True)
class LeakReport:
    """What was watched in one or several processes, and what was found."""

    tests: int = 0
    seconds: float = 0.0
    findings: list[LeakFinding] = field(default_factory=list)
    observers: set[str] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)
    """What could not be observed, and why."""

    @property
    def has_watched(self) -> bool:
        """Whether anything was watched: not where each test runs in a fork of its own, or where nothing can be seen."""
        return bool(self.observers and self.tests)

    @property
    def failures(self) -> list[LeakFinding]:
        return [finding for finding in self.findings if finding.is_failure]

    def add(self, other: LeakReport) -> None:
        self.tests += other.tests
        self.seconds += other.seconds
        self.findings += other.findings
        self.observers |= other.observers
        self.unseen |= other.unseen

    def packed(self) -> dict[str, Any]:
        """This report in builtin types, so that it can be sent to another process."""
        return {
            "tests": self.tests,
            "seconds": self.seconds,
            "findings": [
                {field.name: getattr(finding, field.name) for field in fields(finding)} for finding in self.findings
            ],
            "observers": sorted(self.observers),
            "unseen": sorted(self.unseen),
        }

    @classmethod
    def unpacked(cls, data: Mapping[str, Any]) -> LeakReport:
        """The report that :meth:`packed` made ``data`` of."""
        findings = [LeakFinding(**finding) for finding in data["findings"]]
        return cls(data["tests"], data["seconds"], findings, set(data["observers"]), set(data["unseen"]))

    def lines(self) -> Iterator[ReportLine]:
        """The report for the end of a test run."""
        failures = self.failures
        yield from _grouped(failures, "red")
        others = [finding for finding in self.findings if not finding.is_failure]
        if others:
            yield ReportLine("Not counted as failures:", "yellow")
            yield from _grouped(others, "yellow")
        yield from _advice(self.findings)
        for what in sorted(self.unseen):
            yield ReportLine(f"not observed: {what}", "yellow")
        watched = f"{_count(self.tests, 'test')} watched in {self.seconds * 1000:.0f} ms"
        if self.observers:
            watched += f" by {', '.join(sorted(self.observers))}"
        if not self.has_watched:
            yield ReportLine(f"nothing was observed ({watched})", "yellow")
        elif failures:
            tests = {finding.owner for finding in failures if finding.kind == "test"}
            fixtures = {finding.owner for finding in failures if finding.kind != "test"}
            counts = [_count(len(names), what) for names, what in ((tests, "test"), (fixtures, "fixture")) if names]
            yield ReportLine(f"{' and '.join(counts)} left {_count(len(failures), 'socket')} behind ({watched})", "red")
        else:
            yield ReportLine(f"no test left a socket behind ({watched})", "green")


def leak_message(left: Mapping[TrackedSocket, SocketRecord], grace: float, observers: Iterable[str]) -> str:
    """A failure message for a test that has left sockets open."""
    text = [f"the test left {_count(len(left), 'socket')} open, {grace:g} s after it was over:"]
    faults: dict[str, tuple[str, str]] = {}
    abandoned = {tracked for tracked in left if tracked.origin is not None and tracked.origin.was_abandoned}
    for tracked, record in left.items():
        fault = record.linger or Linger.OPEN
        text += ["", f"  {record}"]
        if tracked.origin is not None and (opened_at := str(tracked.origin)):
            text.append(f"  opened at {opened_at}")
        if tracked in abandoned:
            faults["ABANDONED"] = (ABANDONED, Linger.OPEN.remedy)
        else:
            faults[fault.name] = (fault.value, fault.remedy)
    text.append("")
    for why, remedy in faults.values():
        text += [wrapped(f"why: {why}", "     "), wrapped(f"to do: {remedy}", "       ")]
    if any(tracked not in abandoned for tracked in left):
        text.append(
            wrapped(
                "if it is meant to stay: have a fixture of wider scope open it, or name it in "
                "@pytest.mark.no_socket_leaks(ignore=[...]) or the option roket_ignore",
                "",
            )
        )
    return "\n".join([*text, f"(seen by {', '.join(observers)})"])


def _grouped(findings: Iterable[LeakFinding], style: str) -> Iterator[ReportLine]:
    groups: defaultdict[tuple[str, str], list[LeakFinding]] = defaultdict(list)
    for finding in findings:
        groups[finding.owner, finding.fault].append(finding)
    for (owner, fault), group in groups.items():
        failed = ", and did not pass (its traceback may hold it)" if group[0].kind == "failed test" else ""
        yield ReportLine(f"{owner} {_PREDICATES[fault].format(_count(len(group), 'socket', 'a'))}{failed}", style)
        for finding in group[:_SHOWN]:
            yield ReportLine(f"  {finding.socket}")
            if finding.opened_at:
                yield ReportLine(f"    opened at {finding.opened_at}")
            if finding.remark:
                yield ReportLine(f"    {finding.remark}")
        if len(group) > _SHOWN:
            yield ReportLine(f"  and {len(group) - _SHOWN} more")


def _advice(findings: Iterable[LeakFinding]) -> Iterator[ReportLine]:
    for finding in {finding.fault: finding for finding in findings}.values():
        yield ReportLine(f"{finding.fault}: {finding.why}")
        yield from map(ReportLine, wrapped(f"to do: {finding.remedy}", " " * 9, "  ").split("\n"))


def _count(number: int, what: str, one: str = "1") -> str:
    return f"{one} {what}" if number == 1 else f"{number} {what}s"
