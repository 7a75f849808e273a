"""Tests that load the machine, soak, or measure: a run leaves them out unless it is asked for them.

Any other test holds on a busy machine, in any company. These need the machine, or take it from the others, and what
they find depends on no version of Python or of a dependency. So one of them runs at a time, and `.ci/run` has a phase
for them alone. ``--measured only`` runs them, ``--measured also`` all tests; the summary lists what was left out.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import Any

import pytest

MEASURED = (
    "tests/benchmarks/test_benchmarks.py",
    "tests/benchmarks/test_compare.py",
    "tests/benchmarks/test_gate.py",
    "tests/cli/test_digest.py::test_random_interruptions_lose_nothing_and_corrupt_nothing",
    "tests/kernel/test_sock_diag.py::test_filtering_in_the_kernel_is_cheaper",
    "tests/project/test_lazy_names.py::test_all_names_cost_little_more_than_the_libraries_they_need",
    "tests/pytest_plugin/test_plugin_census.py::test_the_census_costs_little",
    "tests/pytest_plugin/test_plugin_cost.py::test_loading_it_costs_a_start_next_to_nothing",
    "tests/routes/test_routes_extremes.py::test_more_than_two_gibibytes_go_by_sendfile",
    "tests/routes/test_routes_running.py::test_as_many_slices_as_fit_in_a_millisecond_run_in_a_turn_and_a_cancelled_one_loses_no_place",
    "tests/serving/test_abuse.py",
    "tests/serving/test_serve_connections.py::test_those_above_max_connections_wait_in_the_queue_and_cost_nothing",
    "tests/serving/test_soak.py",
    "tests/serving/test_supervise_watcher.py::test_an_idle_connection_costs_little_memory_and_no_cpu",
    "tests/serving/test_supervise_watcher.py::test_many_at_once_are_cut_without_holding_up_the_loop",
    "tests/soak/test_accidents.py::test_accidents_for_two_minutes",
    "tests/testing/test_cases.py::test_each_mutant_is_caught_by_its_own_case_alone",
    "tests/testing/test_http_servers.py::test_each_fault_is_caught_by_its_own_case_alone",
    "tests/testing/test_programs.py::test_roket_trio_keeps_every_rule",
    "tests/testing/test_relay_cases.py::test_each_fault_is_caught_by_its_own_case_alone",
    "tests/testing/test_reports.py::test_the_time_for_a_table_grows_with_it_and_no_faster",
)
"""Files, and tests of other files. With several workers, one worker runs all of these."""

_LEFT_OUT = pytest.StashKey[dict[str, int]]()


def work_unit(test: str) -> str:
    """The unit that a test is given to a worker with: :data:`MEASURED`, or its file."""
    return "measured" if test.partition("[")[0].startswith(MEASURED) else test.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Schedule by :func:`work_unit` with ``-n 4``, unless a ``--dist`` says otherwise.

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
        "--measured",
        choices=("no", "also", "only"),
        default="no",
        help="tests that load the machine, soak, or measure: left out (the default), run with the others, or run alone",
    )


@pytest.hookimpl(trylast=True)  # after -k and -m: what they leave out is not ours to list
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("measured")
    if asked == "also":
        return
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (kept if (work_unit(item.nodeid) == "measured") == (asked == "only") else left_out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)
    if asked == "no":
        files = dict(Counter(item.nodeid.partition("::")[0] for item in left_out))
        config.stash[_LEFT_OUT] = files
        if hasattr(config, "workeroutput"):  # a worker of xdist: each has collected all tests
            config.workeroutput["left_out"] = files


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    left_out: dict[str, int] = getattr(node, "workeroutput", {}).get("left_out", {})
    node.config.stash[_LEFT_OUT] = left_out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(_LEFT_OUT, {})
    if left_out:
        files = ", ".join(f"{file} ({count})" for file, count in sorted(left_out.items()))
        terminalreporter.line(
            f"left out, {sum(left_out.values())} in number: tests that load the machine, soak, or measure;"
            " `python -m pytest --measured only` runs them:"
        )
        terminalreporter.line(textwrap.fill(files, 100, initial_indent="  ", subsequent_indent="  "))
