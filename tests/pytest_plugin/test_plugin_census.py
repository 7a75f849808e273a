"""The census of a whole suite names the tests and fixtures that left sockets."""

from __future__ import annotations

import re
import sys

import pytest
from support.inner_pytest import Inner, in_one_line

from roket_trio._unclosed import is_own
from roket_trio.testing._leaks import tracker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the census needs Linux")


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
            "Not counted as failures:",
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
    assert "an event loop of wider scope stands still once the test is over" in in_one_line(result)


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
    assert "why: the peer has finished (FIN) and this side has not closed" in in_one_line(result)
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
    result.stdout.fnmatch_lines(["Not counted as failures:", "the collection left a socket open"])


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
            "Not counted as failures:",
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


FRAMES = """
def pytest_exception_interact(call):
    entry = call.excinfo.value.__traceback__
    while entry is not None:
        print("FRAME", entry.tb_frame.f_code.co_filename)
        entry = entry.tb_next
"""


def test_it_is_in_no_traceback(inner: Inner, pytester: pytest.Pytester) -> None:
    (pytester.mkpydir("frames") / "plugin.py").write_text(FRAMES)
    result = inner(
        """
        @pytest.fixture(scope="session")
        def broken(): raise RuntimeError("in its setup")

        @pytest.fixture
        def breaks():
            yield
            raise RuntimeError("in its teardown")

        def test_setup(broken): pass
        def test_call(): raise RuntimeError
        def test_teardown(breaks): pass
        """,
        "--roket-census",
        *("-s", "--full-trace", "-p", "frames.plugin"),
        in_process=False,
    )
    result.assert_outcomes(passed=1, failed=1, errors=2)
    frames = re.findall(r"FRAME (.*)", result.stdout.str())
    assert len(frames) > 10
    assert not [frame for frame in frames if is_own(frame)]
    assert "roket_trio/_pytest" not in result.stdout.str()


@pytest.mark.parametrize("census", [(), ("--roket-census",)], ids=["without", "with"])
def test_a_warning_of_the_collectors_comes_where_it_would_have_come(inner: Inner, census: tuple[str, ...]) -> None:
    """What only the collector closes is left to it: no test is told of another one's garbage."""
    result = inner(
        """
        def test_leaves_garbage():
            gc.disable()
            cycle = {"sock": socket.create_server(("127.0.0.1", 0))}
            cycle["self"] = cycle

        def test_next(): pass

        def test_collects():
            with pytest.warns(ResourceWarning):
                gc.collect()
            gc.enable()

        def test_leaves_garbage_at_the_end():
            gc.disable()
            cycle = {"sock": socket.create_server(("127.0.0.1", 0))}
            cycle["self"] = cycle
        """,
        *census,
        *("-W", "error::ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning"),
        in_process=False,
    )
    result.assert_outcomes(passed=4)
    if census:
        result.stdout.fnmatch_lines(
            [
                "test_it.py::test_leaves_garbage left a socket to the garbage collector",
                "test_it.py::test_leaves_garbage_at_the_end left a socket open",
            ]
        )


def test_a_worker_without_tests_says_nothing(inner: Inner) -> None:
    result = inner(
        """
        kept = socket.create_server(("127.0.0.1", 0))  # each worker opens it, also the one that has nothing to run

        def test_it(): pass
        """,
        "--roket-census",
        *("-n", "2"),
        ini="roket_grace = 0.1",
        in_process=False,
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["the collection left a socket open", "no test left a socket behind (1 test watched *"])
    assert "not observed" not in result.stdout.str()
