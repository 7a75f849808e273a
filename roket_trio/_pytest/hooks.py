"""The pytest hooks that judge each test and report on the run: loaded with the first test or option that needs them."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, NoReturn, final

import pytest

from ..testing._census.capabilities import observers_here
from ..testing._census.observers import NotObservedError
from ..testing._expectations.peer_watch import PeerWatch
from ..testing._expectations.watched import ConnectionResult
from ..testing._leaks.referrers import has_paused_loop
from ..testing._leaks.report import LeakReport, leak_message
from ..testing._leaks.tracker import RunPhase, TrackedSocket
from ..testing._peers.wire import NotAvailableError
from ..testing._reports.from_pytest import result_of_connection, result_of_leaks, results_of_findings
from ..testing._results.close_verdict import CloseExpectation
from ..testing.fixtures import ChaosRelays, ClosePeers, SocketCensus
from .leak_check import LeakCheck
from .settings import LeakTerms, Settings

_SEE_ENDS: Final = 0.05  # seconds for a peer's thread to see, when a test's body is over, what has happened already

_PAUSED: Final = """
(an event loop of wider scope stands still once the test is over: if it is to close the connection, let it run until
then, by `await asyncio.to_thread(close_peer.verify)` for example)"""

Wrapped = Generator[None, Any, Any]


@final
class _TestRun:
    """One run of one test."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.watch: Final = PeerWatch()
        self.has_failed = False
        """Whether it has failed, for any reason. If so it is not judged."""
        self.is_reported = False
        """Whether this plugin made it fail. If so, its message says already what the peers saw."""
        self.over_at = 0.0
        """When its body was over."""
        self.opened: list[TrackedSocket] = []
        self.connections: list[ConnectionResult] = []
        self.result_lines: list[str] = []


_TEST_RUN: Final = pytest.StashKey[_TestRun]()


@final
class SuiteHooks:
    """Hooks and state of one pytest process: the only one, a worker of xdist, or their controller."""

    def __init__(self, config: pytest.Config, *, has_census: bool, is_strict: bool) -> None:
        self._config = config
        self._settings = Settings(config, has_census=has_census, is_strict=is_strict)
        self._leak_check = LeakCheck(self._settings)
        self._leak_report = LeakReport()
        self._current: _TestRun | None = None
        self._has_gap = False
        """Whether a part of the run was not observed."""
        self._has_named_observers = False
        self._report_failure = ""
        """Why the report is not complete; empty: it is."""
        if self._settings.report_path is not None and not self._settings.is_worker:
            try:
                open(self._settings.report_path, "w").close()
            except OSError as error:
                raise pytest.UsageError(f"--roket-report: {error}") from error
        if has_census or self._settings.checks_all:
            self._leak_check.start()

    # --- what fixtures ask for ---------------------------------------------------------------------------------------

    def census(self) -> SocketCensus:
        try:
            return SocketCensus()
        except NotObservedError as reason:
            self._not_available(str(reason))

    @contextmanager
    def peers(self, item: pytest.Item, *, must_be_clean: bool) -> Iterator[ClosePeers]:
        run = self._test_run(item)
        expected = self._settings.expectation(item)
        if expected is None and must_be_clean:
            expected = CloseExpectation("clean", self._settings.within)
        yield ClosePeers(run.watch, expected)
        self._release(run)

    @contextmanager
    def relays(self, item: pytest.Item) -> Iterator[ChaosRelays]:
        run = self._test_run(item)
        yield ChaosRelays(run.watch)
        self._release(run)

    def check_markers(self, item: pytest.Item) -> None:
        """Prepare for a test with markers or fixtures of this plugin.

        :raises UsageError: a marker makes no sense
        """
        self._settings.expectation(item)
        if self._settings.leak_terms(item) is not None:
            self._leak_check.start()

    # --- one test ----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Wrapped:
        __tracebackhide__ = True
        self._current = run = self._test_run(item, is_new=True)
        self._leak_check.begin_test(is_first=self._leak_report.tests == 0)
        self._leak_report.tests += 1
        try:
            return (yield)
        except BaseException:
            run.has_failed = True
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Wrapped:
        """What a fixture of wider scope opens in its setup is the fixture's, and not the test's that needs it first."""
        __tracebackhide__ = True
        run = self._current
        if fixturedef.scope == "function" or run is None:
            return (yield)
        run.opened += self._leak_check.end_phase(RunPhase(run.name))
        try:
            return (yield)
        finally:
            self._leak_check.end_fixture_setup(fixturedef)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Wrapped:
        __tracebackhide__ = True
        run = self._test_run(item)
        try:
            result = yield
        except BaseException as error:
            run.has_failed = True
            failure = self._stop(run)
            for refusal in (error, failure):
                if isinstance(refusal, NotAvailableError):
                    self._not_available(str(refusal))
            raise
        run.over_at = monotonic()
        run.watch.settle(_SEE_ENDS)
        self._fail(run, self._judge(run, is_last=False))
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Wrapped:
        """All its fixtures are over by the time it is judged, and so are the event loops of Trio, AnyIO and asyncio."""
        __tracebackhide__ = True
        run = self._test_run(item)
        try:
            result = yield
        except BaseException:
            run.has_failed = True
            self._end(item, run)
            raise
        self._fail(run, self._end(item, run))
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Wrapped:
        report: pytest.TestReport = yield
        run = self._test_run(item)
        if report.failed and not run.is_reported and (seen := run.watch.summary()):
            report.sections.append(("roket: what the peers saw", seen))
        if call.when == "teardown":
            report.__dict__["roket"] = run.result_lines  # xdist sends it along
            del item.stash[_TEST_RUN]
        return report

    # --- the whole run -----------------------------------------------------------------------------------------------

    def pytest_report_header(self) -> str | None:
        settings = self._settings
        is_asked_for = settings.has_census or settings.is_strict or settings.report_path or settings.checks_all
        return self._observers() if is_asked_for else None

    def pytest_report_collectionfinish(self) -> str | None:
        """Name the observers if a test needs them, unless the header has named them."""
        return None if self._has_named_observers or self._settings.is_controller else self._observers()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write(getattr(report, "roket", ()))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """A worker of xdist has ended."""
        packed = getattr(node, "workeroutput", {}).get("roket")
        if packed is not None:
            self._leak_report.add(LeakReport.unpacked(packed))
        else:
            self._has_gap = True
            self._leak_report.unseen.add(f"what worker {node.gateway.id} did: {error or 'it sent no report'}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        report = self._leak_report
        if not self._leak_check.finish(report):
            self._has_gap = True
        if self._settings.is_worker:
            self._config.workeroutput["roket"] = report.packed()  # type: ignore[attr-defined]
            return
        self._write(results_of_findings(report.findings, report.observers))
        is_blind = self._settings.has_census and not report.has_watched and not self._config.option.collectonly
        is_bad = bool(report.failures) or is_blind or self._has_gap or bool(self._report_failure)
        if self._settings.is_strict and is_bad and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._report_failure:
            what = f"roket: {self._settings.report_path} is not complete: {self._report_failure}"
            terminalreporter.write_line(what, red=True)
        if self._settings.has_census or self._leak_report.findings or self._leak_report.unseen:
            terminalreporter.section("roket: sockets")
            for line in self._leak_report.lines():
                terminalreporter.write_line(line.text, **({line.style: True} if line.style else {}))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _test_run(self, item: pytest.Item, *, is_new: bool = False) -> _TestRun:
        if is_new or _TEST_RUN not in item.stash:
            item.stash[_TEST_RUN] = _TestRun(item.nodeid)
        return item.stash[_TEST_RUN]

    def _release(self, run: _TestRun) -> None:
        """A fixture is over: close what other plugins' leak checks would find, unless the verdict must wait."""
        if run.has_failed or run.watch.settle(_SEE_ENDS):
            failure = self._stop(run)
            if isinstance(failure, NotAvailableError):
                self._not_available(str(failure))
            if failure is not None and not run.has_failed:
                raise failure

    def _stop(self, run: _TestRun) -> Exception | None:
        """Stop the peers and the relays of a test; returns what a script has raised."""
        try:
            run.watch.stop()
        except Exception as failure:
            return failure
        return None

    def _judge(self, run: _TestRun, *, is_last: bool) -> list[str]:
        """Judge the connections that are over, at last all; returns failure messages."""
        messages = []
        for result in run.watch.judge(run.over_at, is_last=is_last):
            run.connections.append(result)
            run.result_lines.append(result_of_connection(run.name, len(run.connections) - 1, result))
            if result.verdict.verdict == "fail":
                is_slow = result.verdict.close in ("half-open", "leaked", "late")
                messages.append(result.message + (_PAUSED if is_last and is_slow and has_paused_loop() else ""))
            elif result.verdict.verdict == "not-observed":
                messages += self._not_observed(run, result.message)
        return messages

    def _end(self, item: pytest.Item, run: _TestRun) -> list[str]:
        """Judge a test whose fixtures are over, and stop its peers; returns failure messages."""
        messages: list[str] = []
        if not run.has_failed:
            messages = self._judge(run, is_last=True)
            if self._settings.expectation(item) is not None and not run.watch.is_judging:
                messages.append("nothing was judged: @pytest.mark.closes is for tests that start a peer by close_peer")
        failure = self._stop(run)
        if failure is not None and not run.has_failed:
            raise failure
        run.opened += self._leak_check.end_phase(RunPhase(run.name, "failed test" if run.has_failed else "test"))
        if not run.has_failed and not messages and (terms := self._settings.leak_terms(item)) is not None:
            messages = self._leaks(run, terms)
        item.user_properties += [("roket.close", result.verdict.close) for result in run.connections]
        return messages

    def _leaks(self, run: _TestRun, terms: LeakTerms) -> list[str]:
        """Check that a test has left no socket open; returns failure messages."""
        try:
            left = self._leak_check.left_open(run.opened, terms)
        except (OSError, NotObservedError) as error:
            return self._not_observed(run, str(error))
        observers = self._leak_check.observers()
        run.result_lines.append(result_of_leaks(run.name, left.values(), observers))
        if not left:
            return []
        gc.collect()  # what only the collector closes is told apart in the message
        return [leak_message(left, terms.grace, observers)]

    def _not_observed(self, run: _TestRun, what: str) -> list[str]:
        """Take note of what could not be observed: a failure when strict, a line at the end otherwise.

        :returns: failure messages
        """
        if self._settings.is_strict:
            return [f"not observed: {what}"]
        self._leak_report.unseen.add(f"{run.name}: {what}")
        return []

    def _not_available(self, reason: str) -> NoReturn:
        if self._settings.is_strict:
            pytest.fail(f"not observed: {reason}", pytrace=False)
        pytest.skip(reason)

    def _fail(self, run: _TestRun, messages: list[str]) -> None:
        __tracebackhide__ = True
        if messages:
            run.has_failed = run.is_reported = True
            pytest.fail("\n\n".join(messages), pytrace=False)

    def _observers(self) -> str:
        self._has_named_observers = True
        return f"roket: {observers_here()}"

    def _write(self, result_lines: Iterable[str]) -> None:
        """Add to the report. When that fails, the tests go on without one."""
        if self._settings.report_path is None or self._settings.is_worker or self._report_failure:
            return
        try:
            with open(self._settings.report_path, "a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in result_lines)
        except OSError as error:
            self._report_failure = error.strerror or str(error)
