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
``_census``         ``take_census``, ``assert_no_lingering_sockets``: who holds which sockets, and what is wrong
``_observing``      the kernel's tables, by netlink, /proc or TCP_INFO, whichever answers
``_records``        one socket at one moment; pure
==================  ===================================================================================================
"""

from __future__ import annotations

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
from ._observing import NotObservedError
from ._payload import PayloadCheck, payload
from ._peers import ConnectingPeer, ListeningPeer, Script
from ._records import Holder, Linger, SocketRecord
from ._timeline import Event, Timeline
from ._wire import NotAvailableError, ScriptOverError, Wire

__all__ = [
    "Census",
    "CensusChange",
    "ConnectingPeer",
    "Event",
    "Holder",
    "Linger",
    "LingeringSocketsError",
    "ListeningPeer",
    "NotAvailableError",
    "NotObservedError",
    "PayloadCheck",
    "Script",
    "ScriptOverError",
    "SocketRecord",
    "TCPState",
    "Timeline",
    "Wire",
    "assert_no_lingering_sockets",
    "close_wait_sockets",
    "payload",
    "scripts",
    "take_census",
]
