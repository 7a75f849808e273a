"""What the pytest plugin's fixtures give to a test, for annotations; another test framework can use it as well.

Everything is synchronous. What waits blocks its thread, and says so: called on an event loop's own thread it keeps a
program from closing that runs on that loop.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final, final

from . import scripts
from ._census.census import Census, CensusChange, assert_no_lingering_sockets, take_census
from ._census.records import SocketRecord
from ._chaos.relay import ChaosRelay
from ._expectations.peer_watch import PeerWatch, raise_if_unclean
from ._peers.peers import ConnectingPeer, ListeningPeer, PeerAddress, Script
from ._results.close import CloseExpectation


@final
class SocketCensus:
    """The fixture ``socket_census``: this process's sockets, now and when the test began.

    :raises NotObservedError: this platform has no way to look
    """

    def __init__(self) -> None:
        self.at_start: Final = take_census()
        """Taken before the test."""

    def take(self, pid: int | None = None, *, with_children: bool = False) -> Census:
        """As :func:`take_census`."""
        return take_census(pid, with_children=with_children)

    def change(self) -> CensusChange:
        """What has changed since the test began."""
        return take_census().since(self.at_start)

    def assert_none_left(self, *, grace: float = 1.0, ignore: Callable[[SocketRecord], bool] | None = None) -> None:
        """Raise :class:`LingeringSocketsError` if what was opened since the test began is still there. Blocks the
        thread for up to ``grace`` seconds while it is."""
        assert_no_lingering_sockets(since=self.at_start, grace=grace, ignore=ignore)


@final
class ClosePeers:
    """The fixtures ``close_peer`` and ``closes_cleanly``: start scripted peers, which end with the test."""

    def __init__(self, watch: PeerWatch, expected: CloseExpectation | None) -> None:
        self._watch = watch
        self._expected = expected

    def __call__(self, script: Script | None = None, **options: Any) -> ListeningPeer:
        """A peer that listens, entered already.

        A script that returns goes on watching until the program closes, too.

        :param script: see ``roket_trio.testing.scripts``; ``None``: receives to the program's FIN
        :param options: :class:`ListeningPeer`'s
        """
        return self._watch.listen(script or scripts.discard(), self._expected, options)

    def connect(self, address: PeerAddress, script: Script | None = None, **options: Any) -> ConnectingPeer:
        """A peer that has connected to a program's address; options are :class:`ConnectingPeer`'s."""
        return self._watch.connect(script or scripts.discard(), address, self._expected, options)

    def verify(self) -> None:
        """Judge now what is expected of the connections so far. Blocks the thread for as long as a close may take.

        :raises UncleanCloseError: a connection was not closed as expected
        """
        raise_if_unclean(self._watch.judge(monotonic(), is_last=True))


@final
class ChaosRelays:
    """The fixture ``chaos_relay``: start relays, which end with the test."""

    def __init__(self, watch: PeerWatch) -> None:
        self._watch = watch

    def __call__(self, target: PeerAddress | ListeningPeer, **options: Any) -> ChaosRelay:
        """A relay, entered already, on which toxics do nothing yet.

        :param target: an address, or a peer that listens: then it is the relay's client whose close is judged
        :param options: :class:`ChaosRelay`'s
        """
        return self._watch.relay(target, options)
