"""The pytest hooks that judge each test and report on the run: loaded with the first test or option that needs them.

What one test alone needs (peers, relays, a report) is loaded when it is asked for: a census of a suite that knows
nothing of it costs little.

The hooks around others' are of pluggy's old style (``hookwrapper``): an exception is not thrown into them. A wrapper of
the new style would be a frame of every traceback on its way.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, final

import pytest

from ..testing._census.capabilities import observers_here
from ..testing._census.observers import NotObservedError
from ..testing._leaks.collector import pause_collector, resume_collector
from ..testing._leaks.report import LeakReport, leak_message
from ..testing._leaks.tracker import RunPhase, TrackedSocket
from ..testing._results.close_verdict import CloseExpectation
from .leak_check import LeakCheck
from .settings import LeakTerms, Settings

if TYPE_CHECKING:
    from pluggy import Result

    from ..testing._expectations.watched import ConnectionResult
    from ..testing.fixtures import ChaosRelays, ClosePeers, SocketCensus, Throughput
    from .close_check import CloseCheck

Around = Generator[None, "Result[Any]", None]


@final
class _TestRun:
    """One run of one test."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.closes: CloseCheck | None = None
        """Its peers and relays; ``None``: it has asked for none."""
        self.has_failed = False
        """Whether it has failed, for any reason. If so it is not judged."""
        self.is_reported = False
        """Whether this plugin made it fail. If so, its message says already what the peers saw."""
        self.opened: list[TrackedSocket] = []
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
        from ..testing.fixtures import SocketCensus

        try:
            return SocketCensus()
        except NotObservedError as reason:
            raise self._refusal(str(reason)) from None

    @contextmanager
    def peers(self, item: pytest.Item, *, must_be_clean: bool) -> Iterator[ClosePeers]:
        run, closes = self._test_run(item), self._close_check(item)
        expected = self._settings.expectation(item)
        if expected is None and must_be_clean:
            expected = CloseExpectation("clean", self._settings.within)
        yield closes.peers(expected)
        self._release(run, closes)

    @contextmanager
    def relays(self, item: pytest.Item) -> Iterator[ChaosRelays]:
        run, closes = self._test_run(item), self._close_check(item)
        yield closes.relays()
        self._release(run, closes)

    @contextmanager
    def throughput(self, item: pytest.Item) -> Iterator[Throughput]:
        from .speed_check import SpeedCheck

        run = self._test_run(item)
        meter = SpeedCheck(self._settings.speed_limit(item), self._settings, run.result_lines)
        yield meter.throughput(item.nodeid)
        meter.end(has_failed=run.has_failed)

    def check_markers(self, item: pytest.Item) -> None:
        """Prepare for a test with markers or fixtures of this plugin.

        :raises UsageError: a marker makes no sense
        """
        self._settings.expectation(item)
        self._settings.speed_limit(item)
        if self._settings.leak_terms(item) is not None:
            self._leak_check.start()

    # --- one test ----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Around:
        was_enabled = pause_collector()
        try:
            self._current = run = self._test_run(item, is_new=True)
            self._leak_check.begin_test(is_first=self._leak_report.tests == 0)
            self._leak_report.tests += 1
        finally:
            resume_collector(was_enabled)
        outcome = yield
        if outcome.exception is not None:
            run.has_failed = True

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Around:
        """What a fixture of wider scope opens in its setup is the fixture's, and not the test's that needs it first."""
        run = self._current
        if fixturedef.scope == "function" or run is None:
            yield
            return
        run.opened += self._leak_check.end_phase(RunPhase(run.name))
        yield
        self._leak_check.end_fixture_setup(fixturedef)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Around:
        outcome = yield
        run = self._test_run(item)
        if outcome.exception is not None:
            run.has_failed = True
            failure = None if run.closes is None else run.closes.stop()
            for error in (outcome.exception, failure):
                if reason := _why_not_available(error):
                    outcome.force_exception(self._refusal(reason))
                    break
        elif run.closes is not None:
            self._fail(outcome, run, self._told(run, run.closes, run.closes.end_body(), is_last=False))

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Around:
        """All its fixtures are over by the time it is judged, and so are the event loops of Trio, AnyIO and asyncio."""
        outcome = yield
        run = self._test_run(item)
        is_over = outcome.exception is None
        run.has_failed = run.has_failed or not is_over
        try:
            messages = self._end(item, run)
        except Exception as failure:
            if not is_over:
                raise
            outcome.force_exception(failure)  # a script's
        else:
            if is_over:
                self._fail(outcome, run, messages)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Around:
        outcome = yield
        if outcome.exception is not None:
            return
        report: pytest.TestReport = outcome.get_result()
        run = self._test_run(item)
        if report.failed and not run.is_reported and run.closes is not None and (seen := run.closes.summary()):
            report.sections.append(("roket: what the peers saw", seen))
        if call.when == "teardown":
            report.__dict__["roket"] = run.result_lines  # xdist sends it along
            del item.stash[_TEST_RUN]

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
        if self._settings.is_worker and not report.tests:  # xdist starts more workers than it has tests for
            self._config.workeroutput["roket"] = report.packed()  # type: ignore[attr-defined]
            return
        if not self._leak_check.finish(report):
            self._has_gap = True
        if self._settings.is_worker:
            self._config.workeroutput["roket"] = report.packed()  # type: ignore[attr-defined]
            return
        if report.findings and self._settings.report_path is not None:
            from ..testing._reports.from_pytest import results_of_findings

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

    def _close_check(self, item: pytest.Item) -> CloseCheck:
        """The peers and relays of a test, from the first time that it asks for one."""
        run = self._test_run(item)
        if run.closes is None:
            from .close_check import CloseCheck

            run.closes = CloseCheck()
        return run.closes

    def _release(self, run: _TestRun, closes: CloseCheck) -> None:
        """A fixture is over: close what other plugins' leak checks would find, unless the verdict must wait."""
        if run.has_failed or closes.settle():
            failure = closes.stop()
            if reason := _why_not_available(failure):
                raise self._refusal(reason)
            if failure is not None and not run.has_failed:
                raise failure

    def _told(self, run: _TestRun, closes: CloseCheck, results: list[ConnectionResult], *, is_last: bool) -> list[str]:
        """Take note of connections that were judged just now; returns failure messages."""
        from ..testing._reports.from_pytest import result_of_connection
        from .close_check import failure_message

        messages = []
        for number, result in enumerate(results, len(closes.connections) - len(results)):
            run.result_lines.append(result_of_connection(run.name, number, result))
            if result.verdict.verdict == "fail":
                messages.append(failure_message(result, is_last=is_last))
            elif result.verdict.verdict == "not-observed":
                messages += self._not_observed(run, result.message)
        return messages

    def _end(self, item: pytest.Item, run: _TestRun) -> list[str]:
        """Judge a test whose fixtures are over, and stop its peers; returns failure messages."""
        messages: list[str] = []
        if not run.has_failed:
            if run.closes is not None:
                messages = self._told(run, run.closes, run.closes.judge(is_last=True), is_last=True)
            if self._settings.expectation(item) is not None and (run.closes is None or not run.closes.is_judging):
                messages.append("nothing was judged: @pytest.mark.closes is for tests that start a peer by close_peer")
        if run.closes is not None:
            failure = run.closes.stop()
            if failure is not None and not run.has_failed:
                raise failure
        run.opened += self._leak_check.end_phase(RunPhase(run.name, "failed test" if run.has_failed else "test"))
        if not run.has_failed and not messages and (terms := self._settings.leak_terms(item)) is not None:
            messages = self._leaks(run, terms)
        if run.closes is not None:
            item.user_properties += [("roket.close", result.verdict.close) for result in run.closes.connections]
        return messages

    def _leaks(self, run: _TestRun, terms: LeakTerms) -> list[str]:
        """Check that a test has left no socket open; returns failure messages."""
        try:
            left = self._leak_check.left_open(run.opened, terms)
        except (OSError, NotObservedError) as error:
            return self._not_observed(run, str(error))
        observers = self._leak_check.observers()
        if self._settings.report_path is not None:
            from ..testing._reports.from_pytest import result_of_leaks

            run.result_lines.append(result_of_leaks(run.name, left.values(), observers))
        if not left:
            return []
        # What only the collector closes is told apart in the message. The test has asked to be judged, and fails.
        gc.collect()
        return [leak_message(left, terms.grace, observers)]

    def _not_observed(self, run: _TestRun, what: str) -> list[str]:
        """Take note of what could not be observed: a failure when strict, a line at the end otherwise.

        :returns: failure messages
        """
        if self._settings.is_strict:
            return [f"not observed: {what}"]
        self._leak_report.unseen.add(f"{run.name}: {what}")
        return []

    def _refusal(self, reason: str) -> BaseException:
        """How a test ends that needs what is not to be had here."""
        if self._settings.is_strict:
            return pytest.fail.Exception(f"not observed: {reason}", pytrace=False)
        return pytest.skip.Exception(reason)

    def _fail(self, outcome: Result[Any], run: _TestRun, messages: list[str]) -> None:
        if messages:
            run.has_failed = run.is_reported = True
            outcome.force_exception(pytest.fail.Exception("\n\n".join(messages), pytrace=False))

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


def _why_not_available(error: BaseException | None) -> str:
    """Why a peer could not do what it was asked for; empty: that was not the error."""
    wire = sys.modules.get("roket_trio.testing._peers.wire")  # without it, no peer has raised anything
    return str(error) if wire is not None and isinstance(error, wire.NotAvailableError) else ""
