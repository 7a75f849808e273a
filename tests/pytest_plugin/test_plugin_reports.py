"""The plugin's results in reports: JSON lines, JUnit, workers of xdist, forks."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree

import pytest
from support.inner_pytest import Inner, in_one_line

from roket_trio.testing._reports.table import Matrix
from roket_trio.testing._results.case_result import parse_results

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the census needs Linux")


REPORTED = """
def test_clean(closes_cleanly):
    with connect(closes_cleanly()) as sock:
        sock.sendall(b"12345")

@pytest.mark.closes(within=0.1)
@pytest.mark.no_socket_leaks
def test_leak(close_peer, keep):
    keep(connect(close_peer()))

@pytest.mark.no_socket_leaks
def test_nothing_left(): pass
"""


@pytest.mark.parametrize("more", [(), ("--roket-census",), ("-n2",)], ids=["alone", "census", "xdist"])
def test_on_a_full_disk_the_tests_run_and_one_line_tells(inner: Inner, more: tuple[str, ...]) -> None:
    result = inner(REPORTED, "--roket-report=/dev/full", *more, ini="roket_grace = 0.1", in_process="-n2" not in more)
    result.assert_outcomes(passed=3, errors=1)
    output = result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in output
    (line,) = [line for line in output.splitlines() if "/dev/full" in line and "No space left on device" in line]
    assert "is not complete" in line


def test_under_strict_a_report_that_is_not_complete_is_no_success(inner: Inner) -> None:
    code = "def test_clean(closes_cleanly):\n    connect(closes_cleanly()).close()\n"
    for path, expected in (("report.jsonl", pytest.ExitCode.OK), ("/dev/full", pytest.ExitCode.TESTS_FAILED)):
        assert inner(code, f"--roket-report={path}", "--roket-strict").ret == expected


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_verdicts_reach_the_report_and_junit(inner: Inner, pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    arguments = ("--roket-census", "--roket-report=report.jsonl", "--junit-xml=junit.xml", *workers)
    result = inner(REPORTED, *arguments, ini="roket_grace = 0.1\njunit_family = xunit1", in_process=not workers)
    result.assert_outcomes(passed=3, errors=1)

    lines = (pytester.path / "report.jsonl").read_text().splitlines()
    results = {(result.case, result.target): result for result in parse_results(lines)}
    assert len(results) == len(lines) == 4
    clean = results["test_it.py::test_clean", "pytest: connections"]
    assert (clean.verdict, clean.close, clean.role, clean.bytes) == ("pass", "clean", "client", 5)
    assert [event.what for event in clean.events][:3] == ["connected", "received", "fin seen"]
    leak = results["test_it.py::test_leak", "pytest: connections"]
    assert (leak.verdict, leak.close) == ("fail", "leaked")
    assert leak.repro == "pytest test_it.py::test_leak"
    assert results["test_it.py::test_leak", "pytest: census"].verdict == "fail"
    assert results["test_it.py::test_nothing_left", "pytest: leaks"].verdict == "pass"

    suite = ElementTree.parse(pytester.path / "junit.xml")
    properties = {
        case.get("name"): [(each.get("name"), each.get("value")) for each in case.iter("property")]
        for case in suite.iter("testcase")
    }
    assert properties["test_clean"] == [("roket.close", "clean")]
    assert ("roket.close", "leaked") in properties["test_leak"]
    (error,) = suite.iter("error")
    assert "neither FIN nor RST came within 0.1 s" in str(error.get("message"))


def test_a_report_shows_each_of_several_connections_and_sockets(inner: Inner, pytester: pytest.Pytester) -> None:
    inner(
        """
        @pytest.mark.closes(within=0.1)
        def test_it(close_peer, keep):
            peer = close_peer(scripts.half_close(), connections=3)
            connect(peer).close()
            keep(connect(peer))
            connect(peer).close()

        def test_two(keep):
            keep(socket.create_server(("127.0.0.1", 0)))
            keep(socket.create_server(("127.0.0.1", 0)))
        """,
        "--roket-report",
        "report.jsonl",
        "--roket-census",
    )
    lines = (pytester.path / "report.jsonl").read_text(encoding="utf-8").splitlines()
    shown = Matrix.of(parse_results(lines)).results
    assert len(shown) == len(lines)
    of_it = [(one.case, one.verdict) for one in shown if one.target == "pytest: connections"]
    name = "test_it.py::test_it"
    assert of_it == [(name, "pass"), (f"{name} (2)", "fail"), (f"{name} (3)", "pass")]
    of_two = [one for one in shown if one.target == "pytest: census" and "test_two" in one.case]
    assert [one.case for one in of_two] == ["test_it.py::test_two", "test_it.py::test_two (2)"]
    assert {one.repro for one in of_two} == {"pytest test_it.py::test_two"}


def test_a_worker_that_dies_is_not_observed(inner: Inner) -> None:
    result = inner(
        """
        from types import SimpleNamespace

        def test_it(pytestconfig):
            node = SimpleNamespace(gateway=SimpleNamespace(id="gw0"))  # as xdist's hook gives it
            suite = pytestconfig.pluginmanager.get_plugin("roket-suite")
            suite.pytest_testnodedown(node=node, error="Not properly terminated")
        """,
        "--roket-census",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["not observed: what worker gw0 did: Not properly terminated"])


def test_a_worker_that_does_not_tell_is_not_observed(inner: Inner) -> None:
    result = inner(
        """
        from types import SimpleNamespace

        def test_it(pytestconfig):
            node = SimpleNamespace(gateway=SimpleNamespace(id="gw0"))
            pytestconfig.pluginmanager.get_plugin("roket-suite").pytest_testnodedown(node=node, error=None)
        """,
        "--roket-census",
        "--roket-strict",
    )
    result.stdout.fnmatch_lines(["not observed: what worker gw0 did: it sent no report"])
    assert result.ret == 1


# As pytest-forked does it.
FORKS = """
import os, pickle
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    read, write = os.pipe()
    hook, config = item.config.hook, item.config
    child = os.fork()
    if not child:
        try:
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            told = [hook.pytest_report_to_serializable(config=config, report=report) for report in reports]
            with open(write, "wb") as file:
                pickle.dump(told, file)
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        told = pickle.load(file)
    os.waitpid(child, 0)
    for one in told:
        hook.pytest_runtest_logreport(report=hook.pytest_report_from_serializable(config=config, data=one))
    return True
"""


def test_tests_in_forks_of_their_own_are_watched_there(inner: Inner, pytester: pytest.Pytester) -> None:
    (pytester.mkpydir("forks") / "plugin.py").write_text(FORKS)
    code = """
    @pytest.mark.no_socket_leaks
    def test_leak(keep): keep(socket.create_server(("127.0.0.1", 0)))

    @pytest.mark.no_socket_leaks
    def test_clean(): socket.create_server(("127.0.0.1", 0)).close()
    """
    result = inner(code, "-p", "forks.plugin", in_process=False)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["the test left 1 socket open, 1 s after it was over:"])
    # What a whole suite's tests leave is told where the suite ends, and there nobody has seen them.
    result = inner(code, "-p", "forks.plugin", "--roket-census", "-k", "clean", in_process=False)
    result.stdout.fnmatch_lines(["nothing was observed (0 tests watched *"])
    strict = inner(code, "-p", "forks.plugin", "--roket-census", "--roket-strict", "-k", "clean", in_process=False)
    assert (result.ret, strict.ret) == (0, 1)


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_a_path_that_is_no_utf_8_breaks_nothing(
    inner: Inner, pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    result = inner(
        """
        def test_it(tmp_path, monkeypatch, keep):
            monkeypatch.chdir(tmp_path)  # the address is short
            sock = socket.socket(socket.AF_UNIX)
            keep(sock)
            sock.bind(b"x\\xff\\x1b[2J\\n.sock")
            sock.listen()
        """,
        "--roket-census",
        "--roket-report",
        "report.jsonl",
        *workers,
        in_process=False,
    )
    result.assert_outcomes(passed=1)
    told = result.stdout.str()
    assert r"unix x\udcff\x1b[2J\n.sock LISTEN" in told
    assert "1 test left 1 socket behind" in told
    (entry,) = parse_results((pytester.path / "report.jsonl").read_text(encoding="utf-8").splitlines())
    assert entry.verdict == "fail"


def test_a_test_may_stop_the_clock(inner: Inner) -> None:
    result = inner(
        """
        @pytest.fixture
        def frozen(monkeypatch):
            monkeypatch.setattr(time, "monotonic", lambda: 5.0)

        @pytest.mark.no_socket_leaks
        def test_clean(closes_cleanly, frozen):
            connect(closes_cleanly()).close()

        @pytest.mark.closes(within=0.2)
        def test_leak(frozen, close_peer, keep):
            keep(connect(close_peer(scripts.half_close())))

        def test_verified(closes_cleanly, frozen):
            closing = threading.Timer(0.1, connect(closes_cleanly()).close)
            closing.start()
            closes_cleanly.verify()
            closing.join()

        def test_lingering(close_peer, frozen, socket_census):
            with connect(close_peer(scripts.half_close())) as sock:
                sock.recv(1)
                with pytest.raises(AssertionError, match="CLOSE_WAIT"):
                    socket_census.assert_none_left(grace=0.05)

        def test_delayed(close_peer, chaos_relay, frozen):
            relay = chaos_relay(close_peer(scripts.echo()))
            relay.add(Latency(0.01), "upstream")
            with connect(relay) as sock:
                sock.sendall(b"late")
                assert sock.recv(4) == b"late"
        """,
        in_process=False,
    )
    result.assert_outcomes(passed=5, errors=1)
    assert "neither FIN nor RST came within 0.2 s" in in_one_line(result)


def test_a_report_that_cannot_be_written_is_told_at_once(inner: Inner) -> None:
    result = inner("def test_it(): pass", "--roket-report", "no/such/place.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--roket-report: " in result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_a_socket_that_is_wrapped_anew_is_nobodys_garbage(inner: Inner) -> None:
    """As STARTTLS does it: the plain socket object dies, its descriptor lives on in another one."""
    result = inner(
        """
        @pytest.fixture(scope="module")
        def box():
            box = [socket.create_server(("127.0.0.1", 0))]
            yield box
            box[0].close()

        def test_it(box):
            box[0] = socket.socket(fileno=box[0].detach())
        """,
        "--roket-census",
        "--roket-strict",
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(["no test left a socket behind*"])
