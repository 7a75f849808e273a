"""The pytest plugin: suites that leak are caught and told why, clean ones never accused, under every async plugin."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from roket_trio import pytest_plugin
from roket_trio._kernel import procfs, socket_filter

# Loaded here, so that a run inside of this process does not load them again each time.
from roket_trio._pytest import hooks
from roket_trio.testing._census import capabilities, observers
from roket_trio.testing._expectations import watched
from roket_trio.testing._leaks import tracker
from roket_trio.testing._reports.table import Matrix
from roket_trio.testing._results.case_result import parse_results

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the census needs Linux")

IN_CI = bool(os.environ.get("CI") or os.environ.get("ROKET_CI"))

PLUGIN = pytest_plugin.__name__
IS_INSTALLED = any(point.value == PLUGIN for point in entry_points(group="pytest11", name="roket"))
LOAD = () if IS_INSTALLED else ("-p", PLUGIN)

INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
"""

# `keep` is what leaking tests do. It is no part of them: what it kept is closed behind the plugin's back at the end.
CONFTEST = """
import pytest

kept = []

@pytest.fixture
def keep():
    return kept.append

def pytest_unconfigure(config):
    for sock in kept:
        sock.close()
"""

HEAD = """
import gc, http.client, http.server, socket, subprocess, sys, threading, time
import pytest
from roket_trio.testing import Latency, ResetPeer, SlowClose, scripts

def connect(peer):
    return socket.create_connection((peer.host, peer.port), timeout=10)
"""


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which a start finds everything compiled, as installed, and takes half the time."""
    return {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("compiled")), "PYTHONDONTWRITEBYTECODE": ""}


@pytest.fixture
def inner(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, compiled: dict[str, str]
) -> Callable[..., pytest.RunResult]:
    """``inner(code, *arguments)``: run a test module in this process; ``in_process=False``: in another one."""
    for name, value in compiled.items():
        monkeypatch.setenv(name, value)
    for name in ("CI", "BUILD_NUMBER"):  # there pytest's summary repeats whole messages
        monkeypatch.delenv(name, raising=False)

    def run(code: str | dict[str, str], *arguments: str, ini: str = "", in_process: bool = True) -> pytest.RunResult:
        modules = code if isinstance(code, dict) else {"test_it": code}
        pytester.makeini(INI + ini)
        pytester.makeconftest(CONFTEST)
        pytester.makepyfile(**{name: HEAD + textwrap.dedent(text) for name, text in modules.items()})
        arguments = ("-p", "no:cacheprovider", *LOAD, *arguments)
        if in_process:
            return pytester.runpytest_inprocess(*arguments)
        return pytester.runpytest_subprocess(*arguments, timeout=120)

    return run


Inner = Callable[..., pytest.RunResult]


def told(result: pytest.RunResult) -> str:
    """The output in one line, for phrases that are broken to the width of a page."""
    return " ".join(result.stdout.str().split())


# --- what it costs those who do not use it ---------------------------------------------------------------------------


LIST_MODULES = """
import json, sys
def pytest_unconfigure(config):
    names = [name for name in sys.modules if name.split(".")[0] in ("roket_trio", "trio", "anyio", "asyncio")]
    print("MODULES", json.dumps(names))
"""
NO_LOOPS = ("-p", "no:trio", "-p", "no:anyio", "-p", "no:asyncio", "-p", "no:hypothesispytest", "-p", "no:xdist")


def modules_of_a_run(pytester: pytest.Pytester, code: str, *arguments: str) -> set[str]:
    pytester.makeconftest(LIST_MODULES)
    pytester.makepyfile(code)
    arguments = ("-s", "-p", "no:cacheprovider", "-p", "no:xdist.looponfail", *NO_LOOPS, *LOAD, *arguments)
    result = pytester.runpytest_subprocess(*arguments, timeout=60)
    assert result.ret == 0
    (names,) = re.findall(r"MODULES (.*)", result.stdout.str())
    return set(json.loads(names))


def test_until_it_is_used_it_loads_nothing_but_itself(pytester: pytest.Pytester) -> None:
    assert modules_of_a_run(pytester, "def test_it(): pass") == {"roket_trio", PLUGIN}


def test_in_use_it_loads_no_event_loop(pytester: pytest.Pytester) -> None:
    modules = modules_of_a_run(pytester, "def test_it(close_peer, chaos_relay, socket_census): pass", "--roket-census")
    assert {name.split(".")[0] for name in modules} == {"roket_trio"}
    packages = {name.split(".")[1] for name in modules if "." in name}
    assert packages == {"pytest_plugin", "_pytest", "testing", "_kernel", "_origin"}


def test_the_entry_point_is_declared_and_the_installed_one_is_the_same() -> None:
    import tomllib

    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert declared["project"]["entry-points"]["pytest11"] == {"roket": PLUGIN}
    if not IS_INSTALLED:
        pytest.skip("an editable install from before the entry point; CI runs this against the wheel")


def test_loading_it_costs_a_start_next_to_nothing(tmp_path: Path, compiled: dict[str, str]) -> None:
    """2 ms on an idle machine, 20 are promised. CPU time, interleaved, so that what else runs matters little."""
    environment = {**os.environ, **compiled, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    code = (
        "import resource, sys, pytest\n"
        "status = pytest.main(sys.argv[1:])\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print('CPU', usage.ru_utime + usage.ru_stime)\n"
    )

    def cpu_seconds(*arguments: str) -> float:
        command = [sys.executable, "-c", code, "-p", "no:cacheprovider", *arguments]
        child = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return float(child.stdout.split("CPU ")[1])

    cpu_seconds("-p", PLUGIN)  # compiles
    rounds = [(cpu_seconds(), cpu_seconds("-p", PLUGIN)) for _ in range(4)]
    assert min(loaded for _, loaded in rounds) / min(without for without, _ in rounds) < 1.15


# --- how a program closes, by what its peer saw ----------------------------------------------------------------------


def test_a_clean_close_passes(inner: Inner) -> None:
    result = inner(
        """
        def test_client(closes_cleanly):
            peer = closes_cleanly(scripts.reply(b"answer"))
            with connect(peer) as sock:
                sock.sendall(b"question")
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(100) == b"answer"

        @pytest.mark.closes
        def test_server(close_peer):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                peer = close_peer.connect(listener.getsockname(), scripts.half_close(b"question"))
                sock, _ = listener.accept()
                with sock:
                    while sock.recv(100):
                        pass
                    sock.sendall(b"answer")
            assert peer.wait_for("received", seconds=10)

        @pytest.mark.closes(expect="reset")
        def test_abort(close_peer):
            with connect(close_peer()) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")

        @pytest.mark.closes(expect="closed")
        def test_either(close_peer):
            connect(close_peer()).close()

        @pytest.mark.closes
        def test_a_peer_that_resets_is_answered_by_a_close(close_peer):
            peer = close_peer(scripts.reset_at(1))
            with connect(peer) as sock:
                sock.sendall(b"1")
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)

        @pytest.mark.closes
        def test_many_connections(close_peer):
            peer = close_peer(scripts.echo(), connections=20)
            socks = [connect(peer) for _ in range(20)]
            for sock in socks:
                sock.close()
        """
    )
    result.assert_outcomes(passed=6)


RESET = """
def test_it(closes_cleanly):
    peer = closes_cleanly(scripts.half_close(bytes(20_000)))
    with connect(peer) as sock:
        sock.recv(10)
        peer.wait_for("fin sent", seconds=10)
"""


def test_a_reset_is_explained(inner: Inner) -> None:
    result = inner(RESET)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "the program reset the connection (RST), where a clean close (FIN) was expected",
            "what the peer that listened on 127.0.0.1:* saw:",
            "*0.000 s  connected: accepted 127.0.0.1:*",
            "* s  sent 20,000 bytes",
            "* s  fin sent",
            "* s  rst seen",
            "why: its peer had sent 20,000 bytes: closing with one of them unread sends RST instead of FIN*",
            "to do: receive to the end before closing; or send FIN (shutdown), discard what still comes*",
            '(seen by the peer\'s socket and a census of this process; expected: expect="clean", within=5)',
        ]
    )


def test_a_reset_without_data_is_explained(inner: Inner) -> None:
    result = inner(
        """
        def test_it(closes_cleanly):
            with connect(closes_cleanly()) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
        """
    )
    result.assert_outcomes(failed=1)
    assert "why: its peer had sent nothing, so it was aborted (SO_LINGER with a time of 0), " in told(result)


def test_a_reset_after_the_fin_is_explained(inner: Inner) -> None:
    """It takes its own FIN for the end, and a late reply meets a socket that is gone."""
    result = inner(
        """
        def test_it(closes_cleanly):
            peer = closes_cleanly(scripts.reply(b"late", after=0.2))
            connect(peer).close()
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    assert re.search(
        r"why: 0\.2\d\d s after its FIN the program's side reset the connection: it had closed its socket while its "
        r"peer still sent",
        told(result),
    )


def test_a_late_close_is_explained(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.closes(within=0.1)
        def test_it(close_peer):
            peer = close_peer(scripts.half_close())
            with connect(peer):
                peer.wait_for("fin sent", seconds=10)
                time.sleep(0.3)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "the program closed 0.[34] s after its peer had finished; 0.1 s are allowed",
            "why: it was in CLOSE_WAIT until then: the peer's FIN had arrived, and nobody acted on it",
            "to do: close the connection when a receive reports the end*",
        ]
    )


def test_time_in_which_data_passes_does_not_count(inner: Inner) -> None:
    """A program may send for as long as it likes after its peer has finished."""
    result = inner(
        """
        @pytest.mark.closes(within=0.4)
        def test_it(close_peer):
            peer = close_peer(scripts.half_close())
            with connect(peer) as sock:
                for _ in range(12):
                    sock.sendall(b"more")
                    time.sleep(0.05)
        """
    )
    result.assert_outcomes(passed=1)


def test_a_connection_that_stays_in_close_wait_is_explained(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.closes(within=0.2)
        def test_it(close_peer, keep):
            sock = connect(close_peer(scripts.half_close(b"bye")))
            keep(sock)
            assert sock.recv(100) == b"bye"
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "the program has not closed the connection: neither FIN nor RST came within 0.2 s, although its peer has "
            "finished",
            "* s  sent 3 bytes",
            "* s  fin sent",
            "why: the peer has finished (FIN) and this side has not closed: fd * tcp 127.0.0.1:* -> 127.0.0.1:*",
            "to do: close the connection when a receive reports the end, and on every way out (`async with`)*",
        ]
    )
    assert "CLOSE_WAIT, quiet for 0." in told(result)


def test_a_connection_that_stays_open_is_explained(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.closes(within=0.2)
        def test_it(close_peer, keep):
            keep(connect(close_peer()))
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    assert "neither FIN nor RST came within 0.2 s, after the test was over" in told(result)
    assert "why: it was opened and not closed: fd" in told(result)
    assert "ESTABLISHED" in told(result)


def test_shutdown_without_close_is_explained(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.closes(within=0.2)
        def test_it(close_peer, keep):
            sock = connect(close_peer())
            keep(sock)
            sock.shutdown(socket.SHUT_WR)
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    assert "the program has ended the connection and keeps its socket" in told(result)
    assert "is still there: shutdown() sends FIN and closes nothing" in told(result)
    assert "to do: call close() after shutdown(), on every way out (`with`, `async with`, finally)" in told(result)


def test_a_descriptor_kept_after_a_reset_is_explained(inner: Inner) -> None:
    """The kernel's tables have forgotten it, and the peer's socket is gone: only the descriptor can tell."""
    result = inner(
        """
        @pytest.mark.closes(within=0.2)
        def test_it(close_peer, keep):
            sock = connect(close_peer(scripts.reset_at(1)))
            keep(sock)
            sock.sendall(b"1")
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    assert "the program has not closed its socket within 0.2 s, although the connection is over" in told(result)
    assert "why: the connection is over (reset, timed out, or finished on both sides) and its descriptor" in told(
        result
    )


def test_a_fin_where_a_reset_was_expected_is_explained(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.closes(expect="reset")
        def test_it(close_peer):
            connect(close_peer()).close()
        """
    )
    result.assert_outcomes(failed=1)
    assert "the program finished with a FIN, where a reset (RST) was expected" in told(result)
    assert "why: after a FIN its peer takes what it got for the whole" in told(result)
    assert "to do: abort the connection where a message was cut" in told(result)


def test_where_nobody_connects_nothing_is_shown(inner: Inner) -> None:
    result = inner("def test_it(closes_cleanly):\n    closes_cleanly()")
    result.assert_outcomes(passed=1, errors=1)
    assert "nobody connected, so nothing is shown about how the program closes" in told(result)
    assert "to do: let the program under test connect to the peer's host and port" in told(result)


def test_a_marker_with_nothing_to_judge_is_an_error(inner: Inner) -> None:
    result = inner("@pytest.mark.closes\ndef test_it(): pass")
    result.assert_outcomes(passed=1, errors=1)
    assert "nothing was judged: @pytest.mark.closes is for tests that start a peer by close_peer" in told(result)


def test_without_marker_or_name_nothing_is_judged(inner: Inner) -> None:
    inner("def test_it(close_peer):\n    close_peer(scripts.never_read())").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("closes(expect='nice')", "expect='nice' is none of 'clean', 'reset', 'closed'"),
        ("closes(within=0)", "within=0 is not a time in seconds"),
        ("closes(whithin=1)", "unexpected keyword argument 'whithin'"),
        ("no_socket_leaks(grace='1')", "grace='1' is not a time in seconds"),
        ("no_socket_leaks(1)", "positional argument"),
    ],
)
def test_a_marker_that_makes_no_sense_is_refused_at_once(inner: Inner, marker: str, complaint: str) -> None:
    result = inner(f"@pytest.mark.{marker}\ndef test_it(close_peer): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert complaint in result.stderr.str()
    assert f"test_it.py::test_it: @pytest.mark.{marker.split('(')[0]}" in result.stderr.str()


def test_a_setting_that_makes_no_sense_is_refused_at_once(inner: Inner) -> None:
    result = inner("def test_it(close_peer): pass", ini="roket_within = soon")
    assert result.ret != 0
    assert "roket_within = soon is not a time in seconds" in result.stderr.str() + result.stdout.str()


def test_it_can_be_judged_in_the_test(inner: Inner) -> None:
    result = inner(
        """
        from roket_trio.testing.fixtures import ClosePeers

        @pytest.mark.closes(within=0.2)
        def test_it(close_peer: ClosePeers, keep):
            peer = close_peer()
            sock = connect(peer)
            with pytest.raises(AssertionError, match="neither FIN nor RST came within 0.2 s"):
                close_peer.verify()
            sock.close()
        """
    )
    result.assert_outcomes(passed=1)


def test_fixtures_that_close_after_the_peer_is_gone_are_waited_for(inner: Inner) -> None:
    """A client whose fixture knows nothing of the peer is older, and closed after it."""
    result = inner(
        """
        @pytest.fixture
        def client():
            with socket.socket() as sock:
                yield sock

        @pytest.mark.closes
        @pytest.mark.no_socket_leaks
        def test_it(client, close_peer):
            peer = close_peer(scripts.echo())
            client.connect(peer.address)

        @pytest.fixture
        def connected(close_peer):
            with connect(close_peer(scripts.echo())) as sock:
                yield sock

        @pytest.mark.closes
        @pytest.mark.no_socket_leaks
        def test_the_usual_order(connected): pass
        """
    )
    result.assert_outcomes(passed=2)


def test_a_failing_test_is_not_judged_and_its_peers_tell_what_they_saw(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.no_socket_leaks
        def test_it(closes_cleanly, keep):
            peer = closes_cleanly()
            sock = connect(peer)
            keep(sock)
            sock.sendall(b"12345")
            assert peer.wait_for("received", seconds=10)
            assert "something else"  == "is wrong"
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*something else*",
            "*roket: what the peers saw*",
            "the peer that listened on 127.0.0.1:*:",
            "* s  received 5 bytes",
        ]
    )


def test_a_foreign_failure_is_shown_as_it_was(inner: Inner) -> None:
    result = inner(
        """
        @pytest.fixture
        def breaks():
            yield
            raise RuntimeError("in the teardown")

        @pytest.mark.no_socket_leaks
        def test_it(breaks): pass
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    assert "_pytest_suite" not in result.stdout.str()


def test_what_a_script_raises_is_an_error(inner: Inner) -> None:
    result = inner(
        """
        def test_it(close_peer):
            def script(wire):
                raise LookupError("in the script")
            peer = close_peer(script)
            connect(peer).close()
            assert peer.wait_finished(10)
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E *LookupError: in the script"])


def test_leak_checks_of_the_suite_see_no_peer_of_ours(inner: Inner) -> None:
    """Peers and relays end with their fixture: before those of older fixtures, which may look for threads and files."""
    result = inner(
        """
        import os

        @pytest.fixture(autouse=True)
        def nothing_is_left():
            before = len(os.listdir("/proc/self/fd")), threading.active_count()
            yield
            assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before

        def test_it(closes_cleanly, chaos_relay):
            connect(chaos_relay(closes_cleanly(scripts.echo()))).close()

        def test_unused(close_peer):
            close_peer()
        """
    )
    result.assert_outcomes(passed=2)


# --- relays ----------------------------------------------------------------------------------------------------------


def test_the_client_of_a_relay_is_judged_by_what_the_relay_saw(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.closes
        def test_clean(close_peer, chaos_relay):
            relay = chaos_relay(close_peer(scripts.echo()), seed=1)
            relay.add(Latency(0.05), "upstream")
            relay.add(SlowClose(0.2), "upstream")
            with connect(relay) as sock:
                sock.sendall(b"12")
                assert sock.recv(2) == b"12"

        @pytest.mark.closes
        def test_the_relay_resets(close_peer, chaos_relay):
            relay = chaos_relay(close_peer(scripts.echo()))
            relay.add(ResetPeer(0.1), "downstream")
            with connect(relay) as sock:
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)

        @pytest.mark.closes(within=0.2)
        def test_leak(close_peer, chaos_relay, keep):
            keep(connect(chaos_relay(close_peer(scripts.echo()))))
        """
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        [
            "the program has not closed the connection: neither FIN nor RST came within 0.2 s, after the test was over",
            "what the relay on 127.0.0.1:* saw:",
            "* s  client: connected",
            '(seen by the relay\'s sockets; expected: expect="clean", within=0.2)',
        ]
    )


# --- leaks -----------------------------------------------------------------------------------------------------------


LEAK = """
@pytest.mark.no_socket_leaks(grace=0.1)
def test_it(keep):
    keep(socket.create_server(("127.0.0.1", 0)))
"""


def test_a_leak_is_explained(inner: Inner) -> None:
    result = inner(LEAK)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "the test left 1 socket open, 0.1 s after it was over:",
            "  fd * tcp 127.0.0.1:* LISTEN",
            "  opened at test_it.py:* in test_it",
            "why: it was opened and not closed",
            "to do: close it in a `with` or `async with` block, or in a finally clause",
            "if it is meant to stay: have a fixture of wider scope open it, or name it in*",
            "(seen by sock_diag)",
        ]
    )


def test_a_leak_to_the_garbage_collector_is_explained(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.no_socket_leaks(grace=0.1)
        def test_it(recwarn):
            cycle = {"sock": socket.create_server(("127.0.0.1", 0))}
            cycle["self"] = cycle
            gc.disable()

        def test_next():
            gc.enable()
        """,
        "-W",
        "ignore::ResourceWarning",
        "-W",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    )
    result.assert_outcomes(passed=2, errors=1)
    assert "why: nobody closed it: a reference cycle kept it open until the garbage collector came by" in told(result)
    assert "if it is meant to stay" not in told(result)


def test_a_leak_is_called_by_its_state(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.no_socket_leaks(grace=0.1)
        def test_it(close_peer, keep):
            peer = close_peer(scripts.half_close())
            sock = connect(peer)
            keep(sock)
            assert not sock.recv(1)
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    assert "why: the peer has finished (FIN) and this side has not closed" in told(result)


def test_a_test_may_take_a_moment(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.no_socket_leaks(grace=10)
        def test_it():
            sock = socket.create_server(("127.0.0.1", 0))
            threading.Timer(0.3, sock.close).start()
        """
    )
    result.assert_outcomes(passed=1)


def test_what_is_named_is_ignored(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.no_socket_leaks(grace=0.1, ignore=["udp"])
        def test_marked(keep):
            keep(socket.socket(type=socket.SOCK_DGRAM))

        @pytest.mark.no_socket_leaks(grace=0.1)
        def test_configured(keep):
            sock = socket.socket(socket.AF_UNIX)
            sock.bind("here.sock")
            sock.listen()
            keep(sock)
        """,
        ini="roket_ignore = here.*",
    )
    result.assert_outcomes(passed=2)


def test_every_test_can_be_held_to_it(inner: Inner) -> None:
    result = inner(
        "def test_it(keep):\n    keep(socket.create_server(('127.0.0.1', 0)))",
        ini="roket_no_socket_leaks = true\nroket_grace = 0.1",
    )
    result.assert_outcomes(passed=1, errors=1)
    assert "the test left 1 socket open, 0.1 s after it was over" in told(result)


def test_the_census_fixture(inner: Inner) -> None:
    result = inner(
        """
        from roket_trio.testing import LingeringSocketsError, TCPState
        from roket_trio.testing.fixtures import SocketCensus

        def test_it(socket_census: SocketCensus):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                (opened,) = socket_census.change().opened
                assert opened.state is TCPState.LISTEN
                assert opened in socket_census.take().sockets
                with pytest.raises(LingeringSocketsError):
                    socket_census.assert_none_left(grace=0)
                socket_census.assert_none_left(grace=0, ignore=lambda record: record.is_listening)
            socket_census.assert_none_left()
        """
    )
    result.assert_outcomes(passed=1)


# --- what outlives a test and is no leak -----------------------------------------------------------------------------

CLEAN = """
class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args): pass

@pytest.fixture(scope="session")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()

@pytest.fixture(scope="session")
def pool(server):
    # It connects when it is first used, by a test, and keeps the connection.
    connection = http.client.HTTPConnection("127.0.0.1", server)
    yield connection
    connection.close()

@pytest.fixture(scope="module")
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock

def get(pool):
    pool.request("GET", "/")
    assert pool.getresponse().read() == b"ok"

@pytest.mark.no_socket_leaks
def test_pool(pool): get(pool)

@pytest.mark.no_socket_leaks
def test_pool_again(pool): get(pool)

@pytest.mark.no_socket_leaks
def test_listener(listener):
    with socket.create_connection(listener.getsockname()), listener.accept()[0]:
        pass

@pytest.mark.no_socket_leaks
def test_a_child_that_inherits_a_socket():
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            code = f"import socket; socket.socket(fileno={theirs.fileno()}).sendall(b'hello')"
            child = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()])
        assert ours.recv(100) == b"hello"
        assert child.wait() == 0

@pytest.mark.no_socket_leaks
def test_a_child_with_sockets_of_its_own():
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"up\\n"
        child.communicate(b"\\n")

@pytest.mark.no_socket_leaks
def test_a_thread_that_closes_a_little_later():
    sock = socket.create_server(("127.0.0.1", 0))
    threading.Timer(0.1, sock.close).start()

@pytest.mark.no_socket_leaks
@pytest.mark.xfail
def test_expected_to_fail():
    with socket.create_server(("127.0.0.1", 0)):
        raise RuntimeError

@pytest.mark.no_socket_leaks
@pytest.mark.skip
def test_skipped(): pass

@pytest.mark.no_socket_leaks
@pytest.mark.closes
def test_client(close_peer):
    with connect(close_peer(scripts.echo())) as sock:
        sock.sendall(b"12")
        assert sock.recv(2) == b"12"
"""

CLEAN_TRIO = """
import trio

@pytest.fixture
async def stream(close_peer):
    peer = close_peer(scripts.echo())
    async with await trio.open_tcp_stream(peer.host, peer.port) as stream:
        yield stream

@pytest.mark.trio
@pytest.mark.no_socket_leaks
@pytest.mark.closes
async def test_trio_client(stream):
    await stream.send_all(b"12")
    assert await stream.receive_some() == b"12"

@pytest.mark.trio
@pytest.mark.no_socket_leaks
async def test_trio_child():
    assert (await trio.run_process(["cat"], stdin=b"12", capture_stdout=True)).stdout == b"12"
"""

CLEAN_ANYIO = """
import anyio

pytestmark = [pytest.mark.anyio, pytest.mark.no_socket_leaks]

@pytest.fixture(
    scope="module",
    params=["trio", "asyncio", pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")],
)
def anyio_backend(request):
    return request.param

@pytest.fixture(scope="module")
async def listener(anyio_backend):
    # AnyIO keeps the loop for the whole module.
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        yield listener

@pytest.fixture
async def stream(close_peer):
    peer = close_peer(scripts.echo())
    async with await anyio.connect_tcp(peer.host, peer.port) as stream:
        yield stream

@pytest.mark.closes
async def test_anyio_client(listener, stream):
    await stream.send(b"12")
    assert await stream.receive() == b"12"

async def test_anyio_child(listener):
    assert (await anyio.run_process(["cat"], input=b"12")).stdout == b"12"
"""

CLEAN_ASYNCIO = """
import asyncio, pytest_asyncio

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.no_socket_leaks]

@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server():
    async def answer(reader, writer):
        writer.write(await reader.read(100))
        writer.close()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()

@pytest_asyncio.fixture(loop_scope="module")
async def streams(close_peer):
    peer = close_peer(scripts.echo())
    reader, writer = await asyncio.open_connection(peer.host, peer.port)
    yield reader, writer
    writer.close()
    await writer.wait_closed()

@pytest.mark.closes
async def test_asyncio_client(streams):
    reader, writer = streams
    writer.write(b"12")
    assert await reader.read(2) == b"12"

async def test_asyncio_server(server):
    reader, writer = await asyncio.open_connection(*server)
    writer.write(b"12")
    assert await reader.read(2) == b"12"
    writer.close()
    await writer.wait_closed()

async def test_asyncio_child():
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
    assert (await child.communicate(b"12"))[0] == b"12"
"""

LEAKY = """
@pytest.mark.no_socket_leaks(grace=0.1)
def test_open(keep):
    keep(socket.create_server(("127.0.0.1", 0)))

@pytest.mark.closes(within=0.2)
def test_close_wait(close_peer, keep):
    sock = connect(close_peer(scripts.half_close()))
    keep(sock)
    assert not sock.recv(1)
"""

LEAKY_TRIO = """
import trio

@pytest.mark.trio
@pytest.mark.no_socket_leaks(grace=0.1)
async def test_trio_open(keep):
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    keep(listener.socket._sock)

@pytest.mark.trio
@pytest.mark.closes(within=0.2)
async def test_trio_close_wait(close_peer, keep):
    peer = close_peer(scripts.half_close())
    stream = await trio.open_tcp_stream(peer.host, peer.port)
    keep(stream.socket._sock)
    assert not await stream.receive_some()
"""

LEAKY_ANYIO = """
import anyio
from anyio.abc import SocketAttribute

pytestmark = pytest.mark.anyio

@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request):
    return request.param

def raw(anything):
    sock = anything.extra(SocketAttribute.raw_socket)
    return getattr(sock, "_sock", sock)  # asyncio and Trio hide it

@pytest.mark.no_socket_leaks(grace=0.1)
async def test_anyio_open(keep):
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    keep(raw(listener))

@pytest.mark.closes(within=0.2)
async def test_anyio_close_wait(close_peer, keep):
    peer = close_peer(scripts.half_close())
    stream = await anyio.connect_tcp(peer.host, peer.port)
    keep(raw(stream))
    keep(stream._transport if hasattr(stream, "_transport") else raw(stream))
    with pytest.raises(anyio.EndOfStream):
        await stream.receive()
"""

LEAKY_ASYNCIO = """
import asyncio

pytestmark = pytest.mark.asyncio

@pytest.mark.no_socket_leaks(grace=0.1)
async def test_asyncio_open(keep):
    sock = socket.create_server(("127.0.0.1", 0))
    keep(sock)

@pytest.mark.closes(within=0.2)
async def test_asyncio_close_wait(close_peer, keep):
    peer = close_peer(scripts.half_close())
    sock = socket.socket()
    keep(sock)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, peer.address)
    assert not await asyncio.get_running_loop().sock_recv(sock, 1)
"""

MODES = {
    "xdist": ("-n2",),
    "strict": ("--roket-strict", "--strict-markers", "--strict-config"),
    "warnings as errors": ("-W", "error"),
}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return MODES[request.param]


def test_clean_suites_are_never_accused(inner: Inner, mode: tuple[str, ...]) -> None:
    """Keep-alive pools closed at the end of the session, sockets of wider fixtures, children, threads, any loop."""
    suites = {
        "test_plain": CLEAN,
        "test_trio": CLEAN_TRIO,
        "test_anyio": CLEAN_ANYIO,
        "test_asyncio": CLEAN_ASYNCIO,
    }
    result = inner(suites, "--roket-census", *mode, ini="roket_grace = 0.2", in_process=False)
    result.assert_outcomes(passed=7 + 2 + 6 + 3, skipped=1, xfailed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["no test left a socket behind (20 tests watched in * ms by sock_diag)"])


def test_leaking_suites_are_caught(inner: Inner, mode: tuple[str, ...]) -> None:
    suites = {
        "test_plain": LEAKY,
        "test_trio": LEAKY_TRIO,
        "test_anyio": LEAKY_ANYIO,
        "test_asyncio": LEAKY_ASYNCIO,
    }
    result = inner(suites, "--roket-census", *mode, ini="roket_grace = 0.2", in_process=False)
    result.assert_outcomes(passed=10, errors=10)
    output = result.stdout.str()
    assert output.count("the test left 1 socket open, 0.1 s after it was over:") == 5
    assert output.count("the program has not closed the connection: neither FIN nor RST came within 0.2 s") >= 5
    for library in ("", "trio_", "asyncio_", "anyio_"):
        for loop in ("[trio]", "[asyncio]") if library == "anyio_" else ("",):
            module = f"test_{library.rstrip('_') or 'plain'}.py"
            assert f"{module}::test_{library}open{loop} left a socket open\n" in output
            assert f"{module}::test_{library}close_wait{loop} left a socket in CLOSE_WAIT\n" in output
    assert "10 tests left 10 sockets behind (10 tests watched" in output


# --- the census of a whole suite -------------------------------------------------------------------------------------


def test_the_census_names_tests_that_know_nothing_of_it(inner: Inner) -> None:
    result = inner(
        """
        def test_close_wait(keep):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                sock = socket.create_connection(listener.getsockname())
                listener.accept()[0].close()
                keep(sock)

        def test_in_between(): pass

        def test_open(keep):
            keep(socket.socket())
            keep(socket.create_server(("127.0.0.1", 0)))
        """,
        "--roket-census",
        ini="roket_grace = 0.1",
    )
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "roket: sockets observed by *",
            "* roket: sockets *",
            "test_it.py::test_close_wait left a socket in CLOSE_WAIT",
            "  fd * tcp 127.0.0.1:* -> 127.0.0.1:* CLOSE_WAIT, quiet for * s",
            "    opened at test_it.py:* in test_close_wait",
            "test_it.py::test_open left 2 sockets open",
            "CLOSE_WAIT: the peer has finished (FIN) and this side has not closed",
            "  to do: close the connection when a receive reports the end*",
            "OPEN: it was opened and not closed",
            "2 tests left 3 sockets behind (3 tests watched in * ms by sock_diag)",
        ]
    )


def test_strict_makes_findings_fail_the_run(inner: Inner) -> None:
    result = inner(
        "def test_it(keep):\n    keep(socket.create_server(('127.0.0.1', 0)))",
        "--roket-strict",
        ini="roket_census = true\nroket_grace = 0.1",
    )
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_what_was_left_to_the_collector_is_found_whenever_it_comes(inner: Inner) -> None:
    result = inner(
        """
        def test_it():
            gc.disable()
            cycle = {"sock": socket.create_server(("127.0.0.1", 0))}
            cycle["self"] = cycle

        def test_next():
            gc.enable()
            gc.collect()
        """,
        "--roket-census",
        "-W",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "test_it.py::test_it left a socket to the garbage collector",
            "    opened at test_it.py:* in test_it",
            "    the collector came during test_it.py::test_next",
            "ABANDONED: nobody closed it: a reference cycle kept it open until the garbage collector came by",
        ]
    )


def test_what_a_failed_test_leaves_is_told_and_not_held_against_it(inner: Inner) -> None:
    result = inner(
        """
        def test_it(keep):
            keep(socket.create_server(("127.0.0.1", 0)))
            raise RuntimeError
        """,
        "--roket-census",
        "--roket-strict",
        ini="roket_grace = 0.1",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "Not held against anybody:",
            "test_it.py::test_it left a socket open, and did not pass (its traceback may hold it)",
            "no test left a socket behind *",
        ]
    )


def test_a_fixture_is_named_for_what_it_opens(inner: Inner) -> None:
    result = inner(
        """
        @pytest.fixture(scope="session")
        def server():
            return socket.create_server(("127.0.0.1", 0))

        @pytest.mark.no_socket_leaks
        def test_it(server, keep):
            keep(server)
        """,
        "--roket-census",
        ini="roket_grace = 0.1",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["fixture 'server' (session) left a socket open", "1 fixture left 1 socket behind *"])


SERVER = """
from conftest import kept as accepted

@pytest.fixture(scope="session")
def server():
    # It keeps what it has accepted, and closes nothing.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve():
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                sock.sendall(b"welcome")
                accepted.append(sock)
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
"""


def test_what_a_wider_server_accepts_lives_as_long_as_its_client(inner: Inner) -> None:
    """The client is another process, and has not closed: that is no leak of the test's in which it came."""
    result = inner(
        SERVER
        + """
@pytest.fixture(scope="session")
def browser():
    code = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(input()))); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True) as child:
        yield child.stdin
        child.kill()

@pytest.mark.no_socket_leaks(grace=0.1)
def test_it(server, browser):
    print(server[1], file=browser, flush=True)
    deadline = time.monotonic() + 10
    while not accepted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert accepted

def test_next(): pass
""",
        "--roket-census",
    )
    result.assert_outcomes(passed=2)


SESSION_LOOP = """
    import asyncio
    import pytest_asyncio

    @pytest_asyncio.fixture(scope="session", loop_scope="session")
    async def server():
        async def handle(reader, writer):
            try:
                await reader.read()
            finally:
                writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            yield server.sockets[0].getsockname()

    @pytest.mark.asyncio(loop_scope="session")
    @pytest.mark.no_socket_leaks(grace=0.1)
    @pytest.mark.parametrize("number", [1, 2])
    async def test_client(server, number):
        _, writer = await asyncio.open_connection(*server)
        writer.close()
        await writer.wait_closed()

    @pytest.mark.asyncio(loop_scope="session")
    @pytest.mark.closes(within=0.2)
    async def test_peer(server, close_peer):
        close_peer.connect(server, scripts.half_close(b"x"))
        {waits}

    def test_after_the_peer(server): pass
"""


def test_a_loop_of_wider_scope_has_no_time_between_tests(inner: Inner) -> None:
    """Its server cannot close while it stands still: no accusation, and a hint where a peer is to be judged."""
    waits = "await asyncio.to_thread(close_peer.verify)"
    result = inner(SESSION_LOOP.format(waits=waits), "--roket-census", "--roket-strict")
    result.assert_outcomes(passed=4)
    assert result.ret == 0
    result = inner(SESSION_LOOP.format(waits="await asyncio.sleep(0)"), "-k", "peer")
    result.assert_outcomes(passed=2, errors=1)
    assert "an event loop of wider scope stands still once the test is over" in told(result)


def test_a_wider_server_that_does_not_close_after_its_client_is_caught(inner: Inner) -> None:
    result = inner(
        SERVER
        + """
@pytest.mark.no_socket_leaks(grace=0.1)
def test_it(server):
    with socket.create_connection(server) as sock:
        assert sock.recv(100) == b"welcome"

def test_next(): pass
""",
        "--roket-census",
        ini="roket_grace = 0.1",
    )
    result.assert_outcomes(passed=2, errors=1)
    assert "why: the peer has finished (FIN) and this side has not closed" in told(result)
    result.stdout.fnmatch_lines(["test_it.py::test_it left a socket in CLOSE_WAIT"])


def test_a_pool_that_is_never_closed_is_told_at_the_end(inner: Inner) -> None:
    """It is the fixture's, not the test's that happened to fill it; without a census it is followed all the same."""
    result = inner(
        """
        class Pool:
            sock = None

        @pytest.fixture(scope="session")
        def pool():
            return Pool()

        @pytest.mark.no_socket_leaks(grace=0.1)
        def test_it(pool, keep):
            pool.sock = socket.create_server(("127.0.0.1", 0))
            keep(pool.sock)

        def test_next(): pass
        """,
        "--roket-strict",
        ini="roket_grace = 0.1",
    )
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["fixture 'pool' (session) left a socket open"])


def test_what_is_opened_while_tests_are_imported_is_nobodys(inner: Inner) -> None:
    result = inner(
        """
        sock = socket.create_server(("127.0.0.1", 0))

        def test_it(keep):
            keep(sock)
        """,
        "--roket-census",
        "--roket-strict",
        ini="roket_grace = 0.1",
    )
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["Not held against anybody:", "the collection left a socket open"])


def test_a_stay_in_close_wait_is_told_although_it_ends(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's connection whose server has gone: closed at the end of the session, and nobody looked until then."""
    monkeypatch.setattr(tracker, "_LOOK_FOR_CLOSE_WAIT", 0.1)
    result = inner(
        """
        @pytest.fixture(scope="session")
        def pool():
            with socket.socket() as sock:
                yield sock

        def test_connects(pool):
            time.sleep(0.1)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                pool.connect(listener.getsockname())
                listener.accept()[0].close()
            time.sleep(0.1)

        def test_slow():
            time.sleep(0.3)

        def test_last(): pass
        """,
        "--roket-census",
        "--roket-strict",
    )
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "Not held against anybody:",
            "fixture 'pool' (session) opened a socket that stayed in CLOSE_WAIT, and closed in the end",
            "    its peer finished during test_it.py::test_connects, and it was closed more than 0.[3-9] s later",
        ]
    )


def test_the_census_costs_little(inner: Inner) -> None:
    result = inner("@pytest.mark.parametrize('i', range(300))\ndef test_it(i): pass", "--roket-census")
    result.assert_outcomes(passed=300)
    (milliseconds,) = re.findall(r"300 tests watched in (\d+) ms", result.stdout.str())
    (seconds,) = re.findall(r"300 passed.* in ([\d.]+)s", result.stdout.str())
    assert int(milliseconds) / 1000 < 0.5 * float(seconds)  # a tenth on an idle machine, of tests that do nothing


# --- reports ---------------------------------------------------------------------------------------------------------


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
    result.stdout.fnmatch_lines(["not observed: what worker gw0 did: it has not told"])
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
    assert "neither FIN nor RST came within 0.2 s" in told(result)


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


# --- what cannot be seen ---------------------------------------------------------------------------------------------


def test_it_says_who_observes(inner: Inner) -> None:
    """In the header if an option asks for the plugin, after the collection if only tests do, and else not at all."""
    line = "roket: sockets observed by sock_diag, /proc and TCP_INFO*"
    inner("def test_it(): pass", "--roket-census").stdout.fnmatch_lines([line, "rootdir: *"])
    inner("def test_it(close_peer): pass").stdout.fnmatch_lines(["collected 1 item", line])
    inner("def test_it(): pass").stdout.no_fnmatch_line("*roket: *")


@pytest.fixture
def without_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket_filter, "_attach", refuses)


VANISH = """
def test_script(close_peer):
    peer = close_peer(scripts.vanish())
    with connect(peer):
        assert peer.wait_finished(10)
        assert peer.timeline.saw("vanished")

def test_peer(close_peer):
    close_peer(lose_fins=True)

def test_passes(close_peer):
    peer = close_peer(scripts.vanish())
    with connect(peer):
        assert peer.wait_finished(10)
"""


@pytest.mark.usefixtures("without_privileges")
def test_what_needs_root_is_a_skip_that_says_so(inner: Inner) -> None:
    result = inner(VANISH, "-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "roket: sockets observed by *; without CAP_NET_ADMIN (root) no peers that vanish or lose FINs",
            "SKIPPED * a peer that vanishes: the kernel wants CAP_NET_ADMIN: *",
        ]
    )


@pytest.mark.usefixtures("without_privileges")
def test_what_needs_root_fails_when_strict(inner: Inner) -> None:
    result = inner(VANISH, "--roket-strict")
    result.assert_outcomes(passed=1, failed=2, errors=1)
    assert "not observed: a peer that vanishes: the kernel wants CAP_NET_ADMIN" in told(result)


def test_without_root_everything_else_works(pytester: pytest.Pytester, inner: Inner) -> None:
    if os.geteuid() != 0:
        pytest.skip("this is how all of these tests run here")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if IN_CI:
            pytest.fail("setpriv (util-linux) is missing")
        pytest.skip("setpriv (util-linux) is missing")
    inner(CLEAN, in_process=True).assert_outcomes(passed=7, skipped=1, xfailed=1)
    command = [setpriv, "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "pytest"]
    result = pytester.run(*command, "-p", "no:cacheprovider", *LOAD, "--roket-census", timeout=120)
    result.assert_outcomes(passed=7, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "roket: sockets observed by sock_diag, /proc and TCP_INFO; without CAP_NET_ADMIN (root) no peers that *",
            "no test left a socket behind *",
        ]
    )


def test_without_netlink_proc_observes(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> None:
        raise PermissionError(1, "seccomp says no")

    for module in (observers, capabilities, watched):
        monkeypatch.setattr(module, "SockDiag", refuses)
    inner(CLEAN, "--roket-census").assert_outcomes(passed=7, skipped=1, xfailed=1)
    result = inner({"test_it": LEAKY, "test_trio": LEAKY_TRIO}, "--roket-census", ini="roket_grace = 0.1")
    result.assert_outcomes(passed=4, errors=4)
    result.stdout.fnmatch_lines(
        [
            "roket: sockets observed by /proc and TCP_INFO, without sock_diag (*seccomp says no): no ages*",
            "test_it.py::test_open left a socket open",
            "test_it.py::test_close_wait left a socket in CLOSE_WAIT",
            "not observed: queue and age details, by sock_diag: *seccomp says no",
        ]
    )


@pytest.fixture
def without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "AVAILABLE", False)


BLIND = """
@pytest.mark.no_socket_leaks
def test_marked(): pass

def test_census(socket_census): pass
"""


@pytest.mark.usefixtures("without_proc")
def test_where_nothing_can_be_seen_that_is_no_pass(inner: Inner) -> None:
    result = inner(BLIND, "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "roket: sockets are not observed here: there is no /proc",
            "not observed: test_it.py::test_marked: there is no /proc",
            "SKIPPED * there is no /proc",
        ]
    )


GOES_BLIND = """
from roket_trio.testing._leaks import tracker

def refuse(pid):
    raise PermissionError(13, "as after seteuid(2)")

@pytest.fixture(scope="module")
def blind():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker.procfs, "socket_inodes", refuse)
        yield

def test_before(): pass
def test_blind(blind, keep): keep(socket.create_server(("127.0.0.1", 0)))
"""
SEES_AGAIN = """
def test_again(): pass
def test_seen(keep): keep(socket.create_server(("127.0.0.1", 0)))
"""


def test_an_observer_that_goes_missing_is_no_pass_and_accuses_nobody(inner: Inner) -> None:
    ini = "roket_no_socket_leaks = true\nroket_grace = 0.1\n"
    suite = {"test_a": GOES_BLIND, "test_b": SEES_AGAIN}
    result = inner(suite, "--roket-census", "-rA", ini=ini)
    result.assert_outcomes(passed=4, errors=1)
    assert "ERROR test_b.py::test_seen" in told(result)
    assert "not observed: test_a.py::test_blind: [Errno 13] as after seteuid(2)" in told(result)
    assert "a time in which nothing could be seen left a socket open" in told(result)
    strict = inner(suite, "--roket-strict", "-rA", ini=ini)
    strict.assert_outcomes(passed=4, errors=2)
    assert "ERROR test_a.py::test_blind" in told(strict)
    # The census of a suite in which no test is held to anything.
    assert inner({"test_a": GOES_BLIND}, "--roket-census").ret == 0
    assert inner({"test_a": GOES_BLIND}, "--roket-census", "--roket-strict").ret == 1


@pytest.mark.usefixtures("without_proc")
def test_where_nothing_can_be_seen_strict_fails(inner: Inner) -> None:
    result = inner(BLIND, "--roket-strict")
    result.assert_outcomes(passed=1, errors=2)
    assert told(result).count("not observed: there is no /proc") >= 2
    result = inner("def test_it(): pass", "--roket-strict", "--roket-census")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "nothing was observed" in told(result)


UNSEEN = """
@pytest.mark.closes(within=0.5)
def test_a_program_elsewhere(close_peer):
    peer = close_peer(scripts.reset_at(1))
    code = f"import socket; s = socket.create_connection(('127.0.0.1', {peer.port})); s.sendall(b'1'); s.recv(1)"
    subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
"""


def test_a_close_that_no_peer_could_see_is_no_pass(inner: Inner) -> None:
    """The peer has reset, so its socket is gone, and the program is another process."""
    result = inner(UNSEEN)
    result.assert_outcomes(passed=1)
    sentence = "how the program closed could not be seen: it had reset the connection itself"
    assert f"not observed: test_it.py::test_a_program_elsewhere: {sentence}" in told(result)
    result = inner(UNSEEN, "--roket-strict")
    result.assert_outcomes(passed=1, errors=1)
    assert f"not observed: {sentence}" in told(result)


def test_a_reset_that_no_peer_could_see_is_no_pass(inner: Inner) -> None:
    """The census sees that this process has released its socket, and not with what."""
    result = inner(
        """
        @pytest.mark.closes(expect="reset")
        def test_it(close_peer):
            with connect(close_peer(scripts.reset_at(1))) as sock:
                sock.sendall(b"1")
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
        """
    )
    result.assert_outcomes(passed=1)
    sentence = "how the program closed could not be seen: it had reset the connection itself"
    assert f"not observed: test_it.py::test_it: {sentence}" in told(result)
