"""What the plugin cannot see is "not observed", and never a pass."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
from support.inner_pytest import LOAD, Inner, in_one_line
from support.inner_suites import CLEAN, LEAKY, LEAKY_TRIO

from roket_trio._kernel import procfs, socket_filter
from roket_trio.testing._census import capabilities, observers
from roket_trio.testing._expectations import watched

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the census needs Linux")


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
    assert "not observed: a peer that vanishes: the kernel wants CAP_NET_ADMIN" in in_one_line(result)


def test_without_root_everything_else_works(pytester: pytest.Pytester, inner: Inner) -> None:
    if os.geteuid() != 0:
        pytest.skip("this is how all of these tests run here")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if os.environ.get("CI") or os.environ.get("ROKET_CI"):
            pytest.fail("setpriv (util-linux) is missing")
        pytest.skip("setpriv (util-linux) is missing")
    inner(CLEAN, in_process=True).assert_outcomes(passed=7, skipped=1, xfailed=1)
    command = [setpriv, "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "pytest"]
    result = pytester.run(*command, "-p", "no:cacheprovider", *LOAD, "--roket-census", timeout=300)
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
    assert "ERROR test_b.py::test_seen" in in_one_line(result)
    assert "not observed: test_a.py::test_blind: [Errno 13] as after seteuid(2)" in in_one_line(result)
    assert "a time in which nothing could be seen left a socket open" in in_one_line(result)
    strict = inner(suite, "--roket-strict", "-rA", ini=ini)
    strict.assert_outcomes(passed=4, errors=2)
    assert "ERROR test_a.py::test_blind" in in_one_line(strict)
    # The census of a suite in which no test is held to anything.
    assert inner({"test_a": GOES_BLIND}, "--roket-census").ret == 0
    assert inner({"test_a": GOES_BLIND}, "--roket-census", "--roket-strict").ret == 1


@pytest.mark.usefixtures("without_proc")
def test_where_nothing_can_be_seen_strict_fails(inner: Inner) -> None:
    result = inner(BLIND, "--roket-strict")
    result.assert_outcomes(passed=1, errors=2)
    assert in_one_line(result).count("not observed: there is no /proc") >= 2
    result = inner("def test_it(): pass", "--roket-strict", "--roket-census")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "nothing was observed" in in_one_line(result)


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
    assert f"not observed: test_it.py::test_a_program_elsewhere: {sentence}" in in_one_line(result)
    result = inner(UNSEEN, "--roket-strict")
    result.assert_outcomes(passed=1, errors=1)
    assert f"not observed: {sentence}" in in_one_line(result)


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
    assert f"not observed: test_it.py::test_it: {sentence}" in in_one_line(result)
