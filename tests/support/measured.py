"""Tests that load the machine, or measure it: at most one of them runs at a time, and a run can do without them.

``--without-measured`` leaves them out, and the summary says how many these were. `.ci/run` does so where a version of
Python or of a dependency is what is tried: what these tests find does not depend on it.
"""

from __future__ import annotations

from typing import Any

import pytest

MEASURED = (
    "tests/serving/test_abuse.py",
    "tests/benchmarks/test_benchmarks.py",
    "tests/benchmarks/test_compare.py",
    "tests/benchmarks/test_gate.py",
    "tests/kernel/test_sock_diag.py::test_filtering_in_the_kernel_is_cheaper",
    "tests/project/test_lazy_names.py",
    "tests/pytest_plugin/test_plugin_cost.py::test_loading_it_costs_a_start_next_to_nothing",
    "tests/pytest_plugin/test_plugin_census.py::test_the_census_costs_little",
    "tests/routes/test_routes_running.py::test_as_many_slices_as_fit_in_a_millisecond_run_in_a_turn_and_a_cancelled_one_loses_no_place",
    "tests/serving/test_serve_connections.py::test_those_above_max_connections_wait_in_the_queue_and_cost_nothing",
    "tests/serving/test_soak.py",
    "tests/serving/test_supervise_watcher.py::test_an_idle_connection_costs_little_memory_and_no_cpu",
    "tests/serving/test_supervise_watcher.py::test_many_at_once_are_cut_without_holding_up_the_loop",
    "tests/testing/test_reports.py::test_the_time_for_a_table_grows_with_it_and_no_faster",
)
"""Files, and tests of other files. With several workers, one worker runs all of these."""

_LEFT_OUT = pytest.StashKey[int]()


def work_unit(test: str) -> str:
    """The unit that a test is given to a worker with: :data:`MEASURED`, or its file."""
    return "measured" if test.partition("[")[0].startswith(MEASURED) else test.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Schedule by :func:`work_unit` with ``-n 2``, unless a ``--dist`` says otherwise.

    Not by ``loadgroup``: groups become part of the names of tests, and ``--last-failed -n 0`` would find none of those.
    """
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return work_unit(nodeid)

    if config.getoption("dist") != "load":
        return None
    config.option.loadscopereorder = False  # as they are named: the files with the most tests do not take the longest
    return Scheduler(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-measured", action="store_true", help="leave out the tests that load the machine, or measure it"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("without_measured"):
        return
    left_out = [item for item in items if work_unit(item.nodeid) == "measured"]
    items[:] = [item for item in items if work_unit(item.nodeid) != "measured"]
    config.hook.pytest_deselected(items=left_out)
    config.stash[_LEFT_OUT] = len(left_out)
    if hasattr(config, "workeroutput"):  # a worker of xdist: each has collected all tests
        config.workeroutput["left_out"] = len(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_LEFT_OUT] = node.workeroutput.get("left_out", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.line(
            f"left out: {left_out} tests that load the machine, or measure it (--without-measured);"
            " the README's suites and the wheel's have them"
        )
