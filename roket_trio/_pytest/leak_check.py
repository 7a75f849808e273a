"""Which sockets the tests of this process leave open, and which of these a fixture of wider scope holds."""

from __future__ import annotations

from typing import Any, final

import pytest

from ..testing._census.observers import NotObservedError
from ..testing._census.records import SocketRecord
from ..testing._leaks.referrers import has_paused_loop, reachable_descriptors
from ..testing._leaks.report import LeakReport
from ..testing._leaks.tracker import ANY_PHASE, LeakTracker, RunPhase, TrackedSocket, ignoring
from .settings import LeakTerms, Settings


@final
class LeakCheck:
    """Tracks the sockets of this process, once it is started."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tracker: LeakTracker | None = None
        self._wide: list[pytest.FixtureDef[Any]] = []
        self._refusal = ""
        """Why nothing can be observed here; empty: it can, or was not tried."""

    def start(self) -> None:
        """Track sockets from now on, unless they are tracked already or cannot be."""
        if self._tracker is not None or self._refusal or self._settings.is_controller:
            return
        try:
            self._tracker = LeakTracker(ignoring(self._settings.ignore))
        except NotObservedError as reason:
            self._refusal = str(reason)

    def begin_test(self, *, is_first: bool) -> None:
        """Prepare for a test. What was opened before the first one belongs to no test."""
        if self._tracker is not None and self._tracker.is_inherited:  # each test in a fork of its own
            self._tracker = None
            self.start()
        if is_first:
            self.end_phase(RunPhase("the collection", "elsewhere"))

    def end_phase(self, phase: RunPhase) -> list[TrackedSocket]:
        """What was opened since the last call belongs to ``phase``.

        :returns: those of these sockets that are still open
        """
        return [] if self._tracker is None else self._tracker.end_phase(phase)

    def end_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """What was opened since the last call belongs to a fixture of wider scope than one test."""
        self._wide = [other for other in self._wide if other.cached_result is not None] + [fixturedef]
        self.end_phase(RunPhase(_name(fixturedef), "fixture"))

    def observers(self) -> list[str]:
        """The names of what observes sockets here."""
        return [] if self._tracker is None else sorted(self._tracker.observers)

    def left_open(self, opened: list[TrackedSocket], terms: LeakTerms) -> dict[TrackedSocket, SocketRecord]:
        """The sockets that a test has opened and left open, without those that a fixture of wider scope is to close.

        Blocks the thread for up to ``terms.grace`` seconds while there are any.

        :raises NotObservedError, OSError: this cannot be seen
        """
        tracker = self._tracker
        if tracker is None or tracker.blind:
            raise NotObservedError(self._refusal if tracker is None else tracker.blind)
        ignored = ignoring(terms.ignore)
        open_still = tracker.still_open(opened, terms.grace)
        # A connection to a listener of wider scope may live as long as its client does.
        left = {one: now for one, now in open_still.items() if not ignored(now) and (one.host is None or now.linger)}
        self._leave_out_held(left)
        accepted = [one for one in left if one.host is not None]
        if accepted and has_paused_loop():  # the loop would close them, when it runs again
            for one in accepted:
                one.phase = RunPhase(one.host.name if one.host else "", "adopter")
                del left[one]
        return left

    def finish(self, report: LeakReport) -> bool:
        """Add what was found to ``report``, at the end of the run.

        :returns: whether all that was tracked was observed without a gap
        """
        tracker = self._tracker
        if self._refusal:
            report.unseen.add(self._refusal)
        if tracker is None:
            return True
        report.findings += tracker.end(self._settings.grace, ANY_PHASE if self._settings.has_census else ("adopter",))
        report.seconds += tracker.seconds
        report.observers |= tracker.observers
        report.unseen |= set(tracker.unseen)
        return not tracker.has_gap

    def _leave_out_held(self, left: dict[TrackedSocket, SocketRecord]) -> None:
        """Leave out what a living fixture of wider scope holds, a pool of connections for example, and the other ends
        of such connections. They are that fixture's from now on, and must be gone when the run ends."""
        for fixturedef in self._wide:
            if not left or fixturedef.cached_result is None:
                continue
            wanted = {fd for record in left.values() for fd in record.fds}
            fds = reachable_descriptors(fixturedef.cached_result[0], wanted)
            held = {one for one, record in left.items() if not fds.isdisjoint(record.fds)}
            ends = {(left[one].remote, left[one].local) for one in held if left[one].remote}
            held |= {one for one, record in left.items() if (record.local, record.remote) in ends}
            for one in held:
                one.phase = RunPhase(_name(fixturedef), "adopter")
                del left[one]


def _name(fixturedef: pytest.FixtureDef[Any]) -> str:
    return f"fixture {fixturedef.argname!r} ({fixturedef.scope})"
