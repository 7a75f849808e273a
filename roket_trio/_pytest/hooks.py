"""The part of the pytest plugin that works: loaded with the first test, or option, that asks for it."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, NoReturn, final

import pytest

from ..testing._census.capabilities import observers_here
from ..testing._census.observers import NotObservedError
from ..testing._census.records import SocketRecord
from ..testing._expectations.peer_watch import PeerWatch
from ..testing._expectations.watched import ConnectionResult
from ..testing._leaks.referrers import has_paused_loop, held_by
from ..testing._leaks.report import Tale, leaks_told
from ..testing._leaks.tracker import ANY_CHAPTER, Chapter, Followed, Following, ignoring
from ..testing._peers.wire import NotAvailableError
from ..testing._reports.from_pytest import entries_of_findings, entry_of_connection, entry_of_leaks
from ..testing._results.close import CloseExpectation
from ..testing.fixtures import ChaosRelays, ClosePeers, SocketCensus

_SEE_ENDS: Final = 0.05  # seconds for a peer's thread to see, when a test's body is over, what has happened already

_PAUSED: Final = """
(an event loop of wider scope stands still once the test is over: if it is to close the connection, let it run until
then, by `await asyncio.to_thread(close_peer.verify)` for example)"""

Wrapped = Generator[None, Any, Any]


@final
class _Case:
    """One run of one test."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.watch: Final = PeerWatch()
        self.has_failed = False
        """For any reason: it is not judged then."""
        self.is_accused = False
        """By this plugin: the message has everything."""
        self.over_at = 0.0
        self.opened: list[Followed] = []
        self.judged: list[ConnectionResult] = []
        self.entries: list[str] = []


_CASE: Final = pytest.StashKey[_Case]()


@final
class Suite:
    """Hooks and state of one pytest process, be it the only one, a worker of xdist's or their controller."""

    def __init__(self, config: pytest.Config, *, has_census: bool, is_strict: bool) -> None:
        self._config = config
        self._has_census = has_census
        self._is_strict = is_strict
        self._grace = _seconds(config, "roket_grace")
        self._within = _seconds(config, "roket_within")
        self._ignore: list[str] = config.getini("roket_ignore")
        self._holds_all = bool(config.getini("roket_no_socket_leaks"))
        report: str | None = config.getoption("--roket-report")
        self._report = None if report is None else os.path.abspath(report)  # a test may go elsewhere
        self._is_worker = hasattr(config, "workerinput")
        self._is_controller = not self._is_worker and getattr(config.option, "dist", "no") != "no"
        self._following: Following | None = None
        self._wide: list[pytest.FixtureDef[Any]] = []
        self._current: _Case | None = None
        self._blind = ""
        self._has_gap = False
        """Whether a part of the run was not observed."""
        self._tale = Tale()
        self._is_told = False
        if self._report is not None and not self._is_worker:
            try:
                open(self._report, "w").close()
            except OSError as error:
                raise pytest.UsageError(f"--roket-report: {error}") from error
        if self._has_census or self._holds_all:
            self._follow()

    # --- what fixtures ask for ---------------------------------------------------------------------------------------

    def census(self) -> SocketCensus:
        try:
            return SocketCensus()
        except NotObservedError as reason:
            self._cannot(str(reason))

    @contextmanager
    def peers(self, item: pytest.Item, *, must_be_clean: bool) -> Iterator[ClosePeers]:
        case = self._case(item)
        expected = self._expectation(item) or (CloseExpectation("clean", self._within) if must_be_clean else None)
        yield ClosePeers(case.watch, expected)
        self._release(case)

    @contextmanager
    def relays(self, item: pytest.Item) -> Iterator[ChaosRelays]:
        case = self._case(item)
        yield ChaosRelays(case.watch)
        self._release(case)

    def check(self, item: pytest.Item) -> None:
        """Of a test that is going to ask for something: whether its markers make sense.

        :raises UsageError: they do not
        """
        self._expectation(item)
        if self._leak_terms(item) is not None:
            self._follow()

    # --- one test ----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Wrapped:
        __tracebackhide__ = True
        if self._following is not None and self._following.is_inherited:  # each test in a fork of its own
            self._following = None
            self._follow()
        self._current = case = self._case(item, is_new=True)
        if self._following is not None and self._tale.tests == 0:
            self._following.end_chapter(Chapter("the collection", "elsewhere"))
        self._tale.tests += 1
        try:
            return (yield)
        except BaseException:
            case.has_failed = True
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Wrapped:
        """What a fixture of wider scope opens while it is set up is its own, not the test's that comes to need it."""
        __tracebackhide__ = True
        if self._following is None or fixturedef.scope == "function" or self._current is None:
            return (yield)
        case = self._current
        case.opened += self._following.end_chapter(Chapter(case.name))
        try:
            return (yield)
        finally:
            self._wide = [other for other in self._wide if other.cached_result is not None] + [fixturedef]
            self._following.end_chapter(Chapter(_name(fixturedef), "fixture"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Wrapped:
        __tracebackhide__ = True
        case = self._case(item)
        try:
            result = yield
        except BaseException as error:
            case.has_failed = True
            failure = self._stop(case)
            for refusal in (error, failure):
                if isinstance(refusal, NotAvailableError):
                    self._cannot(str(refusal))
            raise
        case.over_at = monotonic()
        case.watch.settle(_SEE_ENDS)
        self._raise(case, self._judge(case, is_last=False))
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Wrapped:
        """All its fixtures are over by the time it is judged: trio's, AnyIO's and asyncio's loops as well."""
        __tracebackhide__ = True
        case = self._case(item)
        try:
            result = yield
        except BaseException:
            case.has_failed = True
            self._end(item, case)
            raise
        self._raise(case, self._end(item, case))
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Wrapped:
        report: pytest.TestReport = yield
        case = self._case(item)
        if report.failed and not case.is_accused and (seen := case.watch.summary()):
            report.sections.append(("roket: what the peers saw", seen))
        if call.when == "teardown":
            report.__dict__["roket"] = case.entries  # what xdist sends along
            del item.stash[_CASE]
        return report

    # --- the whole run -----------------------------------------------------------------------------------------------

    def pytest_report_header(self) -> str | None:
        return self._observers() if self._has_census or self._is_strict or self._report or self._holds_all else None

    def pytest_report_collectionfinish(self) -> str | None:
        """For those who use it without an option."""
        return None if self._is_told or self._is_controller else self._observers()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write(getattr(report, "roket", ()))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """A worker of xdist's has ended."""
        told = getattr(node, "workeroutput", {}).get("roket")
        if told is not None:
            self._tale.add(Tale.unpacked(told))
        else:
            self._has_gap = True
            self._tale.unseen.add(f"what worker {node.gateway.id} did: {error or 'it has not told'}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        tale = self._tale
        if self._following is not None:
            tale.findings += self._following.end(self._grace, ANY_CHAPTER if self._has_census else ("keeper",))
            tale.seconds += self._following.seconds
            tale.observers |= self._following.observers
            tale.unseen |= set(self._following.unseen)
            self._has_gap = self._has_gap or self._following.has_gap
        if self._is_worker:
            self._config.workeroutput["roket"] = tale.packed()  # type: ignore[attr-defined]
            return
        self._write(entries_of_findings(tale.findings, tale.observers))
        is_blind = self._has_census and not tale.has_watched and not self._config.option.collectonly
        is_blind = is_blind or self._has_gap
        if self._is_strict and (tale.accusations or is_blind) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._has_census or self._tale.findings or self._tale.unseen:
            terminalreporter.section("roket: sockets")
            for line in self._tale.lines():
                terminalreporter.write_line(line.text, **({line.style: True} if line.style else {}))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _case(self, item: pytest.Item, *, is_new: bool = False) -> _Case:
        if is_new or _CASE not in item.stash:
            item.stash[_CASE] = _Case(item.nodeid)
        return item.stash[_CASE]

    def _release(self, case: _Case) -> None:
        """A fixture is over: close what other fixtures' leak checks would see, unless the judgement must wait."""
        if case.has_failed or case.watch.settle(_SEE_ENDS):
            failure = self._stop(case)
            if isinstance(failure, NotAvailableError):
                self._cannot(str(failure))
            if failure is not None and not case.has_failed:
                raise failure

    def _stop(self, case: _Case) -> Exception | None:
        """:returns: what a script has raised"""
        try:
            case.watch.stop()
        except Exception as failure:
            return failure
        return None

    def _judge(self, case: _Case, *, is_last: bool) -> list[str]:
        """:returns: failure messages"""
        messages = []
        for judged in case.watch.judge(case.over_at, is_last=is_last):
            case.judged.append(judged)
            case.entries.append(entry_of_connection(case.name, len(case.judged) - 1, judged))
            if judged.verdict.verdict == "fail":
                is_slow = judged.verdict.close in ("half-open", "leaked", "late")
                messages.append(judged.message + (_PAUSED if is_last and is_slow and has_paused_loop() else ""))
            elif judged.verdict.verdict == "not-observed":
                messages += self._unseen(case, judged.message)
        return messages

    def _end(self, item: pytest.Item, case: _Case) -> list[str]:
        """:returns: failure messages"""
        messages: list[str] = []
        if not case.has_failed:
            messages = self._judge(case, is_last=True)
            if self._expectation(item) is not None and not case.watch.is_judging:
                messages.append("nothing was judged: @pytest.mark.closes is for tests that start a peer by close_peer")
        failure = self._stop(case)
        if failure is not None and not case.has_failed:
            raise failure
        if self._following is not None:
            chapter = Chapter(case.name, "failed test" if case.has_failed else "test")
            case.opened += self._following.end_chapter(chapter)
        if not case.has_failed and not messages and (terms := self._leak_terms(item)) is not None:
            messages = self._leaks(case, *terms)
        item.user_properties += [("roket.close", judged.verdict.close) for judged in case.judged]
        return messages

    def _leaks(self, case: _Case, grace: float, ignore: Iterable[str]) -> list[str]:
        following = self._following
        if following is None or following.blind:
            return self._unseen(case, self._blind if following is None else following.blind)
        ignored = ignoring(ignore)
        try:
            still_open = following.still_open(case.opened, grace)
        except (OSError, NotObservedError) as error:
            return self._unseen(case, str(error))
        left = {one: now for one, now in still_open.items() if not ignored(now) and (one.host is None or now.linger)}
        left = self._without_kept(left)
        hosted = [one for one in left if one.host is not None]
        if hosted and has_paused_loop():  # which would close them, when it runs again
            for one in hosted:
                one.chapter = Chapter(one.host.name if one.host else "", "keeper")
                del left[one]
        observers = sorted(following.observers)
        case.entries.append(entry_of_leaks(case.name, left.values(), observers))
        if not left:
            return []
        gc.collect()
        return [leaks_told(left, grace, observers)]

    def _without_kept(self, left: dict[Followed, SocketRecord]) -> dict[Followed, SocketRecord]:
        """Leave out what a living fixture of wider scope holds, a pool of connections for example, and the other ends
        of such connections. They are that fixture's from now on, and must be gone when the run ends."""
        for fixturedef in self._wide:
            if not left or fixturedef.cached_result is None:
                continue
            fds = held_by(fixturedef.cached_result[0], {fd for record in left.values() for fd in record.fds})
            kept = {one for one, record in left.items() if not fds.isdisjoint(record.fds)}
            ends = {(left[one].remote, left[one].local) for one in kept if left[one].remote}
            kept |= {one for one, record in left.items() if (record.local, record.remote) in ends}
            for one in kept:
                one.chapter = Chapter(_name(fixturedef), "keeper")
                del left[one]
        return left

    def _unseen(self, case: _Case, what: str) -> list[str]:
        """What could not be observed: a failure when strict, and told at the end otherwise."""
        if self._is_strict:
            return [f"not observed: {what}"]
        self._tale.unseen.add(f"{case.name}: {what}")
        return []

    def _cannot(self, reason: str) -> NoReturn:
        if self._is_strict:
            pytest.fail(f"not observed: {reason}", pytrace=False)
        pytest.skip(reason)

    def _raise(self, case: _Case, messages: list[str]) -> None:
        if messages:
            case.has_failed = case.is_accused = True
            pytest.fail("\n\n".join(messages), pytrace=False)

    def _follow(self) -> None:
        if self._following is not None or self._blind or self._is_controller:
            return
        try:
            self._following = Following(ignoring(self._ignore))
        except NotObservedError as reason:
            self._blind = str(reason)
            self._tale.unseen.add(self._blind)

    def _observers(self) -> str:
        self._is_told = True
        return f"roket: {observers_here()}"

    def _write(self, entries: Iterable[str]) -> None:
        if self._report is not None and not self._is_worker:
            with open(self._report, "a", encoding="utf-8") as file:
                file.writelines(f"{entry}\n" for entry in entries)

    def _expectation(self, item: pytest.Item) -> CloseExpectation | None:
        marker = item.get_closest_marker("closes")
        if marker is None:
            return None
        try:
            default: dict[str, Any] = {} if len(marker.args) > 1 else {"within": self._within}
            return CloseExpectation(*marker.args, **{**default, **marker.kwargs})
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.closes: {error}") from error

    def _leak_terms(self, item: pytest.Item) -> tuple[float, Iterable[str]] | None:
        """The grace in seconds, and what to ignore; ``None``: the test may leave what it likes."""
        marker = item.get_closest_marker("no_socket_leaks")
        if marker is None:
            return (self._grace, ()) if self._holds_all else None
        try:
            return _terms(*marker.args, **{"grace": self._grace, **marker.kwargs})
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.no_socket_leaks: {error}") from error


def _terms(*, grace: float, ignore: Iterable[str] = ()) -> tuple[float, Iterable[str]]:
    if isinstance(ignore, str):
        ignore = [ignore]
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace < 1e6:
        raise ValueError(f"grace={grace!r} is not a time in seconds")
    return grace, tuple(ignore)


def _seconds(config: pytest.Config, name: str) -> float:
    text = config.getini(name)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise pytest.UsageError(f"{name} = {text} is not a time in seconds")
    return value


def _name(fixturedef: pytest.FixtureDef[Any]) -> str:
    return f"fixture {fixturedef.argname!r} ({fixturedef.scope})"
