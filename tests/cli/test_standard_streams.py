"""Closed, full, read-only and broken standard streams: for every subcommand, the exit code says what happened.

The shell sets them up, as it does for users. Never a traceback, never exit code 0 for bytes that nobody has, never
a failure for a transfer that was acknowledged.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.example_programs import ended_with_block
from support.programs import LIMIT, is_listening
from support.roket_command import CONTENT, command, environment, peer_of, received_all, thread
from support.waiting import wait_until

from roket_trio.testing._close_suite.ports import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full, and the kernel's table of listeners")

# What the shell does with a stream. `broken` is a pipe whose reader has left.
OUTPUTS = {"closed": ">&-", "full": ">/dev/full", "read-only": "</dev/null", "broken": None}
INPUTS = {"closed": "<&-", "write-only": ">/dev/null"}


@contextmanager
def started(*arguments: str | Path, **streams: str) -> Iterator[subprocess.Popen[bytes]]:
    """``roket`` under a shell that prepares its streams: ``stdout="full"``; what is not named is a pipe, or empty."""
    words = ""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        kind = streams.get(name)
        if kind is not None and (word := (INPUTS if name == "stdin" else OUTPUTS)[kind]) is not None:
            words += f" {number}{word}"
    line = f"exec {shlex.join(command(*map(str, arguments)))}{words}"
    ends: dict[str, Any] = {
        name: _broken() if streams.get(name) == "broken" else subprocess.PIPE for name in ("stdout", "stderr")
    }
    try:
        program = subprocess.Popen(["sh", "-c", line], stdin=subprocess.DEVNULL, env=environment(), **ends)
    finally:
        for end in ends.values():
            if end != subprocess.PIPE:
                os.close(end)
    with ended_with_block(program):
        yield program


def _broken() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def ended(program: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    output, errors = program.communicate(timeout=LIMIT)
    code, output_text, errors_text = program.returncode, (output or b"").decode(), (errors or b"").decode()
    assert "Traceback" not in errors_text
    assert "Exception ignored" not in errors_text
    return code, output_text, errors_text


def run(*arguments: str | Path, **streams: str) -> tuple[int, str, str]:
    with started(*arguments, **streams) as program:
        return ended(program)


EACH_OUTPUT = pytest.mark.parametrize("kind", OUTPUTS)
# Each kind on each stream, and both at once. Programs take a while to start: not every pair of them.
COMBINATIONS = [("closed", None), (None, "closed"), ("full", "full"), ("read-only", "closed"), ("broken", "broken")]
COMBINATIONS += [("full", None)]


# --- results ----------------------------------------------------------------------------------------------------------


def results_of(tmp_path: Path) -> list[list[str | Path]]:
    """Commands whose product is what they print."""
    return [
        ["--version"],
        ["--help"],
        ["send", "--help"],
        ["doctor"],
        ["check", "--list"],
        ["report", tmp_path / "results.jsonl"],
        ["watch", "--once", "--json", str(os.getpid())],
    ]


@pytest.fixture
def results(tmp_path: Path) -> list[list[str | Path]]:
    client = [sys.executable, "-c", "import sys; sys.exit(127)"]
    done = run("check", "--client", shlex.join([*client, "{host}", "{port}"]), "--case", "close/1.1", "--jsonl", "-")
    (tmp_path / "results.jsonl").write_text(done[1])
    return results_of(tmp_path)


@EACH_OUTPUT
def test_a_result_that_nobody_has_is_no_success(results: list[list[str | Path]], kind: str) -> None:
    """A reader that has left had what it wanted, as for other programs that are read by ``head``."""
    for arguments in results:
        code, _, errors = run(*arguments, stdout=kind)
        if kind == "broken":
            assert (code, errors) == (0, ""), arguments
        else:
            reason = os.strerror(errno.ENOSPC if kind == "full" else errno.EBADF)
            assert code == 5, arguments
            assert errors.endswith(f": writing standard output failed: {reason}\n"), arguments
            assert errors.count("\n") == 1


@pytest.mark.parametrize("kind", ["closed", "full"])
def test_a_result_counts_where_nobody_can_be_told_more(results: list[list[str | Path]], kind: str) -> None:
    for arguments in results:
        code, output, _ = run(*arguments, stderr=kind)
        assert code == 0, arguments
        assert output.strip(), arguments


@pytest.mark.parametrize("kind", ["closed", "full"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["nonsense"], 2),
        (["send"], 2),
        (["send", "/no/such/file", "127.0.0.1:1"], 5),
        (["recv", "0", "/no/such/directory/file"], 5),
        (["watch", "0"], 2),
    ],
)
def test_a_failure_keeps_its_exit_code(arguments: list[str], code: int, kind: str) -> None:
    assert run(*arguments, stdout=kind, stderr=kind)[0] == code


# --- send -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("output", "errors"), COMBINATIONS)
def test_a_file_that_was_acknowledged_is_a_success(tmp_path: Path, output: str | None, errors: str | None) -> None:
    """Also where the last line, the progress or the JSON cannot be written; a line says so where one can."""
    (tmp_path / "file").write_bytes(CONTENT)
    got: list[bytes] = []
    streams = {name: kind for name, kind in (("stdout", output), ("stderr", errors)) if kind is not None}
    with peer_of(lambda sock: got.append(received_all(sock))) as address:
        more = ["--json", "--progress", "plain", "--rate", "2M"]
        code, told, said = run("send", tmp_path / "file", address, *more, **streams)
    assert (code, got == [CONTENT]) == (0, True)
    if output is None:
        assert json.loads(told)["exit"] == 0
    if errors is None and output is not None:
        assert "writing standard output failed" in said


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("more", [[], ["--digest"]])
def test_standard_input_that_cannot_be_read_is_found_before_connecting(kind: str, more: list[str]) -> None:
    code, _, errors = run("send", "-", f"127.0.0.1:{free_port()}", *more, stdin=kind)
    assert code == 5  # and not 6: nobody listens there
    reason = "standard input is closed" if kind == "closed" else "reading standard input failed: Bad file descriptor"
    assert errors == f"roket send: {reason}\n"


def test_standard_input_that_cannot_be_read_has_no_results() -> None:
    for kind in INPUTS:
        code, _, errors = run("report", "-", stdin=kind)
        assert (code, errors) == (5, "roket report: reading standard input failed: Bad file descriptor\n")


# --- recv -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["closed", "read-only", "broken"])
@pytest.mark.parametrize("more", [[], ["--digest"]])
def test_standard_output_that_takes_nothing_is_found_before_anybody_can_connect(kind: str, more: list[str]) -> None:
    code, _, errors = run("recv", "0", "-", *more, stdout=kind)
    reason = f"writing standard output failed: {os.strerror(errno.EPIPE if kind == 'broken' else errno.EBADF)}"
    if kind == "closed":
        reason = "standard output is closed"
    assert (code, errors) == (5, f"roket recv: {reason}\n")
    assert "listening" not in errors


@pytest.mark.parametrize(("errors", "digest"), [(None, False), ("closed", True), ("full", False)])
def test_what_a_full_disk_does_not_take_is_no_success_at_either_end(
    tmp_path: Path, errors: str | None, digest: bool
) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    port = free_port()
    more = ["--digest"] if digest else []
    with started("recv", str(port), "-", *more, stdout="full", **({"stderr": errors} if errors else {})) as receiver:
        wait_until(lambda: is_listening(port), "roket recv listens")
        sent = run("send", tmp_path / "file", f"127.0.0.1:{port}", *more)
        received = ended(receiver)
    assert received[0] == 5
    # TCP alone cannot tell what the receiver's program does with bytes that its kernel has acknowledged.
    assert sent[0] in ((1,) if digest else (0, 3))


@pytest.mark.parametrize(
    ("output", "errors", "digest"),
    [("closed", "closed", True), ("closed", None, False), ("full", "full", False), ("broken", "broken", True)],
)
def test_a_file_that_is_on_the_disk_is_a_success_at_both_ends(
    tmp_path: Path, output: str | None, errors: str | None, digest: bool
) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    port = free_port()
    more = ["--digest"] if digest else []
    streams = {name: kind for name, kind in (("stdout", output), ("stderr", errors)) if kind is not None}
    with started("recv", str(port), tmp_path / "copy", "--json", *more, **streams) as receiver:
        wait_until(lambda: is_listening(port), "roket recv listens")
        sent = run("send", tmp_path / "file", f"127.0.0.1:{port}", *more)
        received = ended(receiver)
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert (sent[0], received[0]) == (0, 0)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_socket_gets_the_number_of_a_standard_stream(tmp_path: Path, closed: str) -> None:
    """What a library prints to standard output would go to a peer."""
    port = free_port()
    line = f"exec {shlex.join(command('recv', str(port), str(tmp_path / 'copy')))} {closed}"
    with subprocess.Popen(["sh", "-c", line], env=environment(), stderr=subprocess.DEVNULL) as program:
        try:
            wait_until(lambda: is_listening(port), "roket recv listens")
            for number in range(3):
                assert not os.readlink(f"/proc/{program.pid}/fd/{number}").startswith(("socket:", "anon_inode:"))
        finally:
            program.kill()


# --- check, serve, relay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("output", "errors"), COMBINATIONS)
def test_a_check_judges_the_same(output: str | None, errors: str | None) -> None:
    """Its verdicts are for standard error; with ``--jsonl -`` its results are for standard output."""
    streams = {name: kind for name, kind in (("stdout", output), ("stderr", errors)) if kind is not None}
    client = f"{shlex.quote(sys.executable)} -c 'import sys; sys.exit(3)' {{host}} {{port}}"
    arguments = ["check", "--client", client, "--speaks", "contract", "--case", "close/1.1"]
    with_results = run(*arguments, "--jsonl", "-", **streams)[0]
    assert with_results == (1 if output in (None, "broken") else 5)


@pytest.mark.parametrize(("output", "errors"), COMBINATIONS)
@pytest.mark.parametrize("name", ["serve", "relay"])
def test_a_server_goes_on_whatever_becomes_of_its_lines(
    tmp_path: Path, name: str, output: str | None, errors: str | None
) -> None:
    """Lines for each connection, and those of a handler that fails: no client sees anything of it."""
    streams = {stream: kind for stream, kind in (("stdout", output), ("stderr", errors)) if kind is not None}
    port = free_port()
    (tmp_path / "file").write_bytes(CONTENT)
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as target:
        target.settimeout(0.1)
        where = "{}:{}".format(*target.getsockname())

        def answer() -> None:
            while not done.is_set():
                try:
                    sock, _ = target.accept()
                except TimeoutError:
                    continue
                with sock:
                    sock.settimeout(LIMIT)
                    sock.recv(1 << 16)
                    sock.sendall(CONTENT)

        arguments = ["serve", str(tmp_path), "--bind", str(port)] if name == "serve" else ["relay", str(port), where]
        with thread(answer), started(*arguments, "--json", **streams) as program:
            try:
                wait_until(lambda: is_listening(port), f"roket {name} listens")
                for _ in range(3):
                    with socket.create_connection(("127.0.0.1", port), LIMIT) as client:
                        client.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                        assert received_all(client).endswith(CONTENT)
                    assert program.poll() is None
                program.send_signal(signal.SIGTERM)
                code, told, said = ended(program)
            finally:
                done.set()
    assert code == 0
    if output is None:
        assert len([json.loads(line) for line in told.splitlines()]) == 3
    elif errors is None and output != "broken":
        assert len(re.findall("writing standard output failed", said)) == 1
