"""What the fixtures of the pytest plugin give to a test: for annotations, and for use with other test frameworks.

Everything is synchronous. A call that waits blocks its thread, and says so. On the thread of an event loop it keeps the
programs of that loop from closing anything meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final, final

from . import scripts
from ._bench.throughput import Throughput as Throughput
from ._census.census import Census, CensusChange, assert_no_lingering_sockets, take_census
from ._census.records import SocketRecord
from ._chaos.relay import ChaosRelay
from ._expectations.peer_watch import PeerWatch, raise_if_unclean
from ._peers.peers import ConnectingPeer, ListeningPeer, PeerAddress, Script
from ._results.close_verdict import CloseExpectation


@final
class SocketCensus:
    """What the fixture ``socket_census`` gives: the sockets of this process, now and when the test began.

    :raises NotObservedError: this platform has no way to look
    """

    def __init__(self) -> None:
        self.at_start: Final = take_census()
        """Taken before the test."""

    def take(self, pid: int | None = None, *, with_children: bool = False) -> Census:
        """Take a census of this process or another one, as :func:`take_census` does."""
        return take_census(pid, with_children=with_children)

    def change(self) -> CensusChange:
        """What has changed since the test began."""
        return take_census().since(self.at_start)

    def assert_none_left(self, *, grace: float = 1.0, ignore: Callable[[SocketRecord], bool] | None = None) -> None:
        """Raise if a socket is left that was opened since the test began. Blocks the thread for up to ``grace`` seconds
        while one is.

        :param ignore: returns whether a record is not to be counted
        :raises LingeringSocketsError: a socket is left
        """
        assert_no_lingering_sockets(since=self.at_start, grace=grace, ignore=ignore)


@final
class ClosePeers:
    """What the fixtures ``close_peer`` and ``closes_cleanly`` give: scripted peers, which end with the test."""

    def __init__(self, watch: PeerWatch, expected: CloseExpectation | None) -> None:
        self._watch = watch
        self._expected = expected

    def __call__(self, script: Script | None = None, **options: Any) -> ListeningPeer:
        """Start a peer that listens.

        After its script has returned, the peer goes on watching until the program closes.

        :param script: see ``roket_trio.testing.scripts``; ``None``: it receives to the program's FIN
        :param options: those of :class:`ListeningPeer`
        """
        return self._watch.listen(script or scripts.discard(), self._expected, options)

    def connect(self, address: PeerAddress, script: Script | None = None, **options: Any) -> ConnectingPeer:
        """Start a peer that connects to a program's address; ``options`` are those of :class:`ConnectingPeer`."""
        return self._watch.connect(script or scripts.discard(), address, self._expected, options)

    def verify(self) -> None:
        """Judge the connections so far, if anything is expected of them. Blocks the thread for as long as a close may
        take.

        :raises UncleanCloseError: a connection was not closed as expected
        """
        raise_if_unclean(self._watch.judge(monotonic(), is_last=True))


@final
class ChaosRelays:
    """What the fixture ``chaos_relay`` gives: relays that misbehave, which end with the test."""

    def __init__(self, watch: PeerWatch) -> None:
        self._watch = watch

    def __call__(self, target: PeerAddress | ListeningPeer, **options: Any) -> ChaosRelay:
        """Start a relay without toxics.

        :param target: an address, or a peer that listens. With a peer, the close of the relay's client is judged
        :param options: those of :class:`ChaosRelay`
        """
        return self._watch.relay(target, options)
