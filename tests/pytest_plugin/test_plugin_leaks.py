"""Sockets that a test leaves open are reported: by state, by origin, or as garbage."""

from __future__ import annotations

import sys

import pytest
from support.inner_pytest import Inner, in_one_line

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the census needs Linux")


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
    assert "why: nobody closed it: a reference cycle kept it open until the garbage collector came by" in in_one_line(
        result
    )
    assert "if it is meant to stay" not in in_one_line(result)


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
    assert "why: the peer has finished (FIN) and this side has not closed" in in_one_line(result)


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
    assert "the test left 1 socket open, 0.1 s after it was over" in in_one_line(result)


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
