"""See how sockets close: a census of them, peers and a relay that misbehave, and checks for programs and streams.

Everything here is synchronous and observes from outside, by raw sockets and the kernel. It serves Trio, AnyIO, asyncio
and programs in any language alike, and does not use this package's own streams. Importing it loads neither Trio nor
AnyIO nor a test framework.

==================  ===================================================================================================
``scripts``         what peers do: half-close, reset, stall, never read, trickle, vanish...
``_peers``          ``ListeningPeer``, ``ConnectingPeer``, ``Wire``: a script in a thread for each connection
``_chaos``          ``ChaosRelay``: between two endpoints, spoils what passes, by toxics (``Latency``...)
``_conformance``    ``check_byte_stream``: the rules for any AnyIO or Trio byte stream; loaded on first use
``_close_suite``    ``CASES``, ``run_case``: scenarios with addresses, levels and reasons, run against any program
``_results``        how a close is judged, for all of these; ``CaseResult``: a result as a line of JSON
``_reports``        results as a table, a page, JUnit
``_census``         ``take_census``, ``assert_no_lingering_sockets``: which sockets a process has, and what is wrong
``_leaks``          sockets that outlive a test, where they were opened, and what still refers to them
``_expectations``   what a test expects of a close that a scripted peer sees
``fixtures``        what the fixtures of the pytest plugin give to a test
==================  ===================================================================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .._kernel.tcp import TCPState
from . import scripts
from ._census.census import (
    Census,
    CensusChange,
    LingeringSocketsError,
    assert_no_lingering_sockets,
    close_wait_sockets,
    take_census,
)
from ._census.observers import NotObservedError
from ._census.records import Holder, Linger, SocketRecord
from ._chaos.relay import ChaosRelay, RelayedConnection
from ._chaos.toxics import (
    Bandwidth,
    Latency,
    LateReply,
    LimitData,
    OneWayFin,
    ResetPeer,
    Slicer,
    SlowClose,
    SwallowFin,
    Timeout,
    Toxic,
    UnreadThenClose,
    ZeroWindow,
)
from ._peers.payload import PayloadCheck, payload
from ._peers.peers import ConnectingPeer, ListeningPeer, Script
from ._peers.timeline import Event, Timeline
from ._peers.wire import NotAvailableError, ScriptOverError, Wire

if TYPE_CHECKING:
    from ._close_suite.case import Case as Case
    from ._close_suite.cases import CASES as CASES
    from ._close_suite.programs import Target as Target
    from ._close_suite.runner import run_case as run_case
    from ._close_suite.runner import run_cases as run_cases
    from ._conformance.byte_streams import broken_rules as broken_rules
    from ._conformance.byte_streams import check_byte_stream as check_byte_stream
    from ._conformance.byte_streams import stream_checks as stream_checks
    from ._conformance.stream_check import BrokenRuleError as BrokenRuleError
    from ._conformance.stream_check import StreamCheck as StreamCheck
    from ._expectations.explanation import UncleanCloseError as UncleanCloseError
    from ._reports.html import render_html as render_html
    from ._reports.junit import render_junit as render_junit
    from ._results.case_result import CaseResult as CaseResult
    from ._results.case_result import parse_results as parse_results

# These need AnyIO and Trio, or subprocess and ssl, so they are loaded on first use (PEP 562).
_MODULE_OF = {
    "BrokenRuleError": "_conformance.stream_check",
    "CASES": "_close_suite.cases",
    "Case": "_close_suite.case",
    "CaseResult": "_results.case_result",
    "Target": "_close_suite.programs",
    "parse_results": "_results.case_result",
    "render_html": "_reports.html",
    "render_junit": "_reports.junit",
    "run_case": "_close_suite.runner",
    "run_cases": "_close_suite.runner",
    "UncleanCloseError": "_expectations.explanation",
    "StreamCheck": "_conformance.stream_check",
    "broken_rules": "_conformance.byte_streams",
    "check_byte_stream": "_conformance.byte_streams",
    "stream_checks": "_conformance.byte_streams",
}

__all__ = [
    "CASES",
    "Bandwidth",
    "BrokenRuleError",
    "Case",
    "CaseResult",
    "Census",
    "CensusChange",
    "ChaosRelay",
    "ConnectingPeer",
    "Event",
    "Holder",
    "LateReply",
    "Latency",
    "LimitData",
    "Linger",
    "LingeringSocketsError",
    "ListeningPeer",
    "NotAvailableError",
    "NotObservedError",
    "OneWayFin",
    "PayloadCheck",
    "RelayedConnection",
    "ResetPeer",
    "Script",
    "ScriptOverError",
    "Slicer",
    "SlowClose",
    "SocketRecord",
    "StreamCheck",
    "SwallowFin",
    "TCPState",
    "Target",
    "Timeline",
    "Timeout",
    "Toxic",
    "UncleanCloseError",
    "UnreadThenClose",
    "Wire",
    "ZeroWindow",
    "assert_no_lingering_sockets",
    "broken_rules",
    "check_byte_stream",
    "close_wait_sockets",
    "parse_results",
    "payload",
    "render_html",
    "render_junit",
    "run_case",
    "run_cases",
    "scripts",
    "stream_checks",
    "take_census",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value
