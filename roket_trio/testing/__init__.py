"""See how sockets close: a census of them, peers and a relay that misbehave, and checks for programs and streams.

Everything here is synchronous and observes from outside, by raw sockets and the kernel. It serves Trio, AnyIO, asyncio
and programs in any language alike, and does not use this package's own streams. Importing it loads neither Trio nor
AnyIO nor a test framework.

==================  ===================================================================================================
``scripts``         what peers do: half-close, reset, stall, never read, trickle, vanish...
``_peers``          ``ListeningPeer``, ``ConnectingPeer``, ``Wire``: a script in a thread for each connection
``_chaos``          ``ChaosRelay``: between two endpoints, spoils what passes, by toxics (``Latency``...)
``_conformance``    ``check_byte_stream``: the rules for any AnyIO or Trio byte stream; loaded on first use
``_bench``          how far any program is from what the machine can do: ``roket bench``, the fixture ``throughput``
``_close_suite``    ``CASES``, ``run_case``: scenarios with addresses, levels and reasons, run against any program
``_http_suite``     the same for HTTP servers
``_relay_suite``    the same for relays, between a client and a target
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

if TYPE_CHECKING:
    from .._kernel.tcp import TCPState as TCPState
    from . import scripts as scripts
    from ._bench.throughput import ThroughputError as ThroughputError
    from ._census.census import Census as Census
    from ._census.census import CensusChange as CensusChange
    from ._census.census import LingeringSocketsError as LingeringSocketsError
    from ._census.census import assert_no_lingering_sockets as assert_no_lingering_sockets
    from ._census.census import close_wait_sockets as close_wait_sockets
    from ._census.census import take_census as take_census
    from ._census.observers import NotObservedError as NotObservedError
    from ._census.records import Holder as Holder
    from ._census.records import Linger as Linger
    from ._census.records import SocketRecord as SocketRecord
    from ._chaos.relay import ChaosRelay as ChaosRelay
    from ._chaos.relay import RelayedConnection as RelayedConnection
    from ._chaos.toxics import Bandwidth as Bandwidth
    from ._chaos.toxics import Latency as Latency
    from ._chaos.toxics import LateReply as LateReply
    from ._chaos.toxics import LimitData as LimitData
    from ._chaos.toxics import OneWayFin as OneWayFin
    from ._chaos.toxics import ResetPeer as ResetPeer
    from ._chaos.toxics import Slicer as Slicer
    from ._chaos.toxics import SlowClose as SlowClose
    from ._chaos.toxics import SwallowFin as SwallowFin
    from ._chaos.toxics import Timeout as Timeout
    from ._chaos.toxics import Toxic as Toxic
    from ._chaos.toxics import UnreadThenClose as UnreadThenClose
    from ._chaos.toxics import ZeroWindow as ZeroWindow
    from ._close_suite.case import Case as Case
    from ._close_suite.cases import CASES as CASES
    from ._close_suite.http_options import HttpOptions as HttpOptions
    from ._close_suite.programs import Target as Target
    from ._close_suite.runner import run_case as run_case
    from ._close_suite.runner import run_cases as run_cases
    from ._conformance.byte_streams import broken_rules as broken_rules
    from ._conformance.byte_streams import check_byte_stream as check_byte_stream
    from ._conformance.byte_streams import stream_checks as stream_checks
    from ._conformance.stream_check import BrokenRuleError as BrokenRuleError
    from ._conformance.stream_check import StreamCheck as StreamCheck
    from ._expectations.explanation import UncleanCloseError as UncleanCloseError
    from ._peers.payload import PayloadCheck as PayloadCheck
    from ._peers.payload import payload as payload
    from ._peers.peers import ConnectingPeer as ConnectingPeer
    from ._peers.peers import ListeningPeer as ListeningPeer
    from ._peers.peers import Script as Script
    from ._peers.timeline import Event as Event
    from ._peers.timeline import Timeline as Timeline
    from ._peers.wire import NotAvailableError as NotAvailableError
    from ._peers.wire import ScriptOverError as ScriptOverError
    from ._peers.wire import Wire as Wire
    from ._reports.html import render_html as render_html
    from ._reports.junit import render_junit as render_junit
    from ._results.case_result import CaseResult as CaseResult
    from ._results.case_result import parse_results as parse_results
    from ._results.speed_result import SpeedResult as SpeedResult
    from ._results.speed_result import parse_speed_results as parse_speed_results

# Each is loaded on first use (PEP 562): the census of a test suite needs no peers, and a program that asks for a census
# needs neither AnyIO nor Trio nor subprocess.
_MODULE_OF = {
    "assert_no_lingering_sockets": "._census.census",
    "Bandwidth": "._chaos.toxics",
    "broken_rules": "._conformance.byte_streams",
    "BrokenRuleError": "._conformance.stream_check",
    "Case": "._close_suite.case",
    "CaseResult": "._results.case_result",
    "CASES": "._close_suite.cases",
    "Census": "._census.census",
    "CensusChange": "._census.census",
    "ChaosRelay": "._chaos.relay",
    "check_byte_stream": "._conformance.byte_streams",
    "close_wait_sockets": "._census.census",
    "ConnectingPeer": "._peers.peers",
    "Event": "._peers.timeline",
    "Holder": "._census.records",
    "HttpOptions": "._close_suite.http_options",
    "Latency": "._chaos.toxics",
    "LateReply": "._chaos.toxics",
    "LimitData": "._chaos.toxics",
    "Linger": "._census.records",
    "LingeringSocketsError": "._census.census",
    "ListeningPeer": "._peers.peers",
    "NotAvailableError": "._peers.wire",
    "NotObservedError": "._census.observers",
    "OneWayFin": "._chaos.toxics",
    "parse_results": "._results.case_result",
    "parse_speed_results": "._results.speed_result",
    "payload": "._peers.payload",
    "PayloadCheck": "._peers.payload",
    "RelayedConnection": "._chaos.relay",
    "render_html": "._reports.html",
    "render_junit": "._reports.junit",
    "ResetPeer": "._chaos.toxics",
    "run_case": "._close_suite.runner",
    "run_cases": "._close_suite.runner",
    "Script": "._peers.peers",
    "ScriptOverError": "._peers.wire",
    "Slicer": "._chaos.toxics",
    "SlowClose": "._chaos.toxics",
    "SocketRecord": "._census.records",
    "SpeedResult": "._results.speed_result",
    "stream_checks": "._conformance.byte_streams",
    "StreamCheck": "._conformance.stream_check",
    "SwallowFin": "._chaos.toxics",
    "take_census": "._census.census",
    "Target": "._close_suite.programs",
    "TCPState": ".._kernel.tcp",
    "ThroughputError": "._bench.throughput",
    "Timeline": "._peers.timeline",
    "Timeout": "._chaos.toxics",
    "Toxic": "._chaos.toxics",
    "UncleanCloseError": "._expectations.explanation",
    "UnreadThenClose": "._chaos.toxics",
    "Wire": "._peers.wire",
    "ZeroWindow": "._chaos.toxics",
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
    "HttpOptions",
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
    "SpeedResult",
    "StreamCheck",
    "SwallowFin",
    "TCPState",
    "Target",
    "ThroughputError",
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
    "parse_speed_results",
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
    if name == "scripts":
        return import_module(".scripts", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULE_OF[name], __name__), name)
    globals()[name] = value
    return value
