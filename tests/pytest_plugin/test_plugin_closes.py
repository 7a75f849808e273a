"""How a program closes its connections, by what a scripted peer or a relay saw, and what the failure says."""

from __future__ import annotations

import re
import sys

import pytest
from support.inner_pytest import Inner, in_one_line

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the census needs Linux")


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
    assert peer.wait_finished(10)
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
            peer = closes_cleanly()
            with connect(peer) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
            assert peer.wait_finished(10)
        """
    )
    result.assert_outcomes(failed=1)
    assert "why: its peer had sent nothing, so it was aborted (SO_LINGER with a time of 0), " in in_one_line(result)


def test_a_reset_after_the_fin_is_explained(inner: Inner) -> None:
    """It takes its own FIN for the end, and a late reply meets a socket that is gone."""
    result = inner(
        """
        def test_it(closes_cleanly):
            peer = closes_cleanly(scripts.reply(b"late", after=0.2))
            connect(peer).close()
        """
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED  # in the teardown, or on a busy machine in the test
    assert re.search(
        r"why: \d+\.\d+ s after its FIN the program's side reset the connection: it had closed its socket while its "
        r"peer still sent",
        in_one_line(result),
    )


@pytest.mark.parametrize(
    ("step", "is_late", "then"),
    [("_accept", "True", "pass"), ("_add", "self.wires", "assert peer.wait_finished(30)")],
    ids=["all", "behind one that is over"],
)
def test_connections_that_the_peer_accepts_late_are_judged_too(
    inner: Inner, step: str, is_late: str, then: str
) -> None:
    """The test ends while they wait in the kernel's queue, since the machine has not run the peer's thread."""
    result = inner(
        f"""
        from roket_trio.testing import ListeningPeer

        @pytest.mark.closes(within=0.1)
        def test_it(close_peer, monkeypatch):
            step = ListeningPeer.{step}

            def comes_late(self, *arguments):
                if {is_late}:
                    time.sleep(1.5)
                return step(self, *arguments)

            monkeypatch.setattr(ListeningPeer, "{step}", comes_late)
            peer = close_peer(connections=3)
            connect(peer).close()
            {then}
            connect(peer).close()
            with connect(peer) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
        """
    )
    result.assert_outcomes(passed=1, errors=1)


def test_a_late_close_is_explained(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.closes(within=0.1)
        def test_it(close_peer):
            peer = close_peer(scripts.half_close())
            with connect(peer):
                peer.wait_for("fin sent", seconds=10)
                time.sleep(0.3)
            assert peer.wait_finished(10)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "the program closed *.* s after its peer had finished; 0.1 s are allowed",
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
    assert "CLOSE_WAIT, quiet for 0." in in_one_line(result)


def test_a_connection_that_stays_open_is_explained(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.closes(within=0.2)
        def test_it(close_peer, keep):
            keep(connect(close_peer()))
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    assert "neither FIN nor RST came within 0.2 s, after the test was over" in in_one_line(result)
    assert "why: it was opened and not closed: fd" in in_one_line(result)
    assert "ESTABLISHED" in in_one_line(result)


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
    assert "the program has ended the connection and keeps its socket" in in_one_line(result)
    assert "is still there: shutdown() sends FIN and closes nothing" in in_one_line(result)
    assert "to do: call close() after shutdown(), on every way out (`with`, `async with`, finally)" in in_one_line(
        result
    )


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
    assert "the program has not closed its socket within 0.2 s, although the connection is over" in in_one_line(result)
    assert (
        "why: the connection is over (reset, timed out, or finished on both sides) and its descriptor"
        in in_one_line(result)
    )


def test_a_fin_where_a_reset_was_expected_is_explained(inner: Inner) -> None:
    result = inner(
        """
        @pytest.mark.closes(expect="reset")
        def test_it(close_peer):
            peer = close_peer()
            connect(peer).close()
            assert peer.wait_finished(10)
        """
    )
    result.assert_outcomes(failed=1)
    assert "the program finished with a FIN, where a reset (RST) was expected" in in_one_line(result)
    assert "why: after a FIN its peer takes what it got for the whole" in in_one_line(result)
    assert "to do: abort the connection where a message was cut" in in_one_line(result)


def test_where_nobody_connects_nothing_is_shown(inner: Inner) -> None:
    result = inner("def test_it(closes_cleanly):\n    closes_cleanly()")
    result.assert_outcomes(passed=1, errors=1)
    assert "nobody connected, so nothing is shown about how the program closes" in in_one_line(result)
    assert "to do: let the program under test connect to the peer's host and port" in in_one_line(result)


def test_a_marker_with_nothing_to_judge_is_an_error(inner: Inner) -> None:
    result = inner("@pytest.mark.closes\ndef test_it(): pass")
    result.assert_outcomes(passed=1, errors=1)
    assert "nothing was judged: @pytest.mark.closes is for tests that start a peer by close_peer" in in_one_line(result)


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


# --- relays ---------------------------------------------------------------------------------------------------------


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
