"""See how sockets close: a census of them, peers that misbehave, a relay that does, and checks for streams.

Everything here is synchronous and observes from outside, by raw sockets and the kernel: it serves Trio, AnyIO, asyncio
and programs in any language alike, and knows nothing of this package's own streams. Importing it loads neither Trio
nor AnyIO nor a test framework.

==================  ===================================================================================================
``scripts``         what peers do: half-close, reset, stall, never read, trickle, vanish...
``_peers``          ``ListeningPeer``, ``ConnectingPeer``: a script's thread for each connection
``_wire``           ``Wire``: the steps of a script, and what is seen meanwhile
``_timeline``       what happened on one connection, and when
``_payload``        data that tells where it belongs; pure
``_chaos``          ``ChaosRelay``: between two endpoints, spoils what passes
``_toxics``         how: ``Latency``, ``Bandwidth``, ``ResetPeer``, ``SwallowFin``...; pure
``_byte_streams``   ``check_byte_stream``: any AnyIO or Trio byte stream, put to the rules of ``_stream_rules``, each of
                    them a ``_stream_check``; loaded on first use
``_cases``          the close suite: scenarios with addresses, levels and reasons; ``_jobs`` what programs do in them
``_running``        ``run_case``: one against a program (``_targets``), led by a ``_stage``; TLS is ``_tls_wire``'s
``_judging``        what a program did, in two verdicts; pure. ``_results`` as JSON lines
``_matrix``         reports: a table; ``_junit``, and ``_html`` with ``report.html``
``_commands``       ``roket check``, ``report``, ``watch``
``_census``         ``take_census``, ``assert_no_lingering_sockets``: who holds which sockets, and what is wrong
``_observing``      the kernel's tables, by netlink, /proc or TCP_INFO, whichever answers
``_records``        one socket at one moment; pure
==================  ===================================================================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .._kernel.tcp import TCPState
from . import scripts
from ._census import (
    Census,
    CensusChange,
    LingeringSocketsError,
    assert_no_lingering_sockets,
    close_wait_sockets,
    take_census,
)
from ._chaos import ChaosRelay, RelayedConnection
from ._observing import NotObservedError
from ._payload import PayloadCheck, payload
from ._peers import ConnectingPeer, ListeningPeer, Script
from ._records import Holder, Linger, SocketRecord
from ._timeline import Event, Timeline
from ._toxics import (
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
from ._wire import NotAvailableError, ScriptOverError, Wire

if TYPE_CHECKING:
    from ._byte_streams import broken_rules as broken_rules
    from ._byte_streams import check_byte_stream as check_byte_stream
    from ._byte_streams import stream_checks as stream_checks
    from ._cases import CASES as CASES
    from ._cases import Case as Case
    from ._html import render_html as render_html
    from ._junit import render_junit as render_junit
    from ._results import CaseResult as CaseResult
    from ._results import parse_results as parse_results
    from ._running import run_case as run_case
    from ._running import run_cases as run_cases
    from ._stream_check import BrokenRuleError as BrokenRuleError
    from ._stream_check import StreamCheck as StreamCheck
    from ._targets import Target as Target

# These need AnyIO and Trio, or subprocess and ssl: handed out on first use (PEP 562).
_ROOM_OF = {
    "BrokenRuleError": "_stream_check",
    "CASES": "_cases",
    "Case": "_cases",
    "CaseResult": "_results",
    "Target": "_targets",
    "parse_results": "_results",
    "render_html": "_html",
    "render_junit": "_junit",
    "run_case": "_running",
    "run_cases": "_running",
    "StreamCheck": "_stream_check",
    "broken_rules": "_byte_streams",
    "check_byte_stream": "_byte_streams",
    "stream_checks": "_byte_streams",
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
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_ROOM_OF[name]}", __name__), name)
    globals()[name] = value
    return value
