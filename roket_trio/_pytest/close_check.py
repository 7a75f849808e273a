"""How the program of one test closes its connections to scripted peers and relays: loaded when a test asks for one."""

from __future__ import annotations

from time import monotonic
from typing import Final, final

from ..testing._expectations.peer_watch import PeerWatch
from ..testing._expectations.watched import ConnectionResult
from ..testing._leaks.referrers import has_paused_loop
from ..testing._results.close_verdict import CloseExpectation
from ..testing.fixtures import ChaosRelays, ClosePeers

_SEE_ENDS: Final = 0.05  # seconds for a peer's thread to see, when a test's body is over, what has happened already

_PAUSED: Final = """
(an event loop of wider scope stands still once the test is over: if it is to close the connection, let it run until
then, by `await asyncio.to_thread(close_peer.verify)` for example)"""


@final
class CloseCheck:
    """The peers and relays of one test, and the verdicts on its closes."""

    def __init__(self) -> None:
        self._watch = PeerWatch()
        self._over_at = 0.0
        self.connections: list[ConnectionResult] = []
        """Those that were judged."""

    def peers(self, expected: CloseExpectation | None) -> ClosePeers:
        return ClosePeers(self._watch, expected)

    def relays(self) -> ChaosRelays:
        return ChaosRelays(self._watch)

    @property
    def is_judging(self) -> bool:
        """Whether any connection is to be judged."""
        return self._watch.is_judging

    def summary(self) -> str:
        """What all the peers and relays have seen, in lines of text."""
        return self._watch.summary()

    def settle(self) -> bool:
        """Wait a moment for the peers to see what has happened already; returns whether they have seen all of it."""
        return self._watch.settle(_SEE_ENDS)

    def end_body(self) -> list[ConnectionResult]:
        """The test's body is over.

        :returns: the connections that have failed by now
        """
        self._over_at = monotonic()
        self.settle()
        return self.judge(is_last=False)

    def judge(self, *, is_last: bool) -> list[ConnectionResult]:
        """Judge the connections that are over, at last all."""
        results = self._watch.judge(self._over_at, is_last=is_last)
        self.connections += results
        return results

    def stop(self) -> Exception | None:
        """Stop the peers and the relays; returns what a script has raised."""
        try:
            self._watch.stop()
        except Exception as failure:
            return failure
        return None


def failure_message(result: ConnectionResult, *, is_last: bool) -> str:
    """The message of a connection that has failed."""
    is_slow = result.verdict.close in ("half-open", "leaked", "late")
    return result.message + (_PAUSED if is_last and is_slow and has_paused_loop() else "")
