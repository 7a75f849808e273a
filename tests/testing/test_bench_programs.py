"""``roket bench`` against real programs, right ones and hostile ones. No verdict depends on how long things take."""

from __future__ import annotations

import os
import random
import shlex
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.programs import tool
from support.roket_command import environment
from support.waiting import wait_until

from roket_trio._kernel import procfs
from roket_trio.testing import SpeedResult, payload
from roket_trio.testing._bench.http_client import AnswerError, HTTPClient
from roket_trio.testing._bench.jobs import JobName, Program, open_bench
from roket_trio.testing._bench.judging import Asked
from roket_trio.testing._bench.measuring import Measurement, driven
from roket_trio.testing._bench.program import Bounds, MeasuredProgram, NotRunError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a program takes is read from /proc")

MIB = 2
PATIENT = Bounds(seconds=120.0)


def bench(
    job: JobName, *commands: str, bounds: Bounds = PATIENT, rounds: int = 1, asked: Asked | None = None
) -> tuple[list[SpeedResult], dict[str, str]]:
    with open_bench(job, MIB, bounds=bounds) as place:
        measurement = Measurement(
            place,
            [Program(command, job) for command in commands],
            mib=MIB,
            rounds=rounds,
            asked=asked,
            fingerprint={},
            order=random.Random(1),
        )
        return driven(measurement.steps()), measurement.not_run


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """``script(body)``: the start of a command that runs a Python program."""

    def make(body: str) -> str:
        path = tmp_path / f"program-{len(list(tmp_path.iterdir()))}.py"
        path.write_text(f"import os, socket, sys, time\n{body}\n", encoding="utf-8")
        return shlex.join([sys.executable, str(path)])

    return make


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


def is_right(found: tuple[list[SpeedResult], dict[str, str]]) -> SpeedResult:
    (result,), not_run = found
    assert not not_run
    assert (result.verdict, result.reason) == ("measured", "")
    assert 0 < result.low <= result.ratio <= result.high
    assert result.rounds >= 1
    assert result.cpu_seconds_per_gib >= 0
    assert result.peak_rss_kib > 500
    assert result.start_seconds > 0
    return result


def reason_of(found: tuple[list[SpeedResult], dict[str, str]]) -> str:
    (result,), not_run = found
    assert not not_run
    assert (result.verdict, result.rounds) == ("error", 0)
    return result.reason


# --- right programs ---------------------------------------------------------------------------------------------------

PUSH = """
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
data = open(sys.argv[3], "rb").read()
"""
PULL = """
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
data = b""
while piece := sock.recv(1 << 20):
    data += piece
"""
SERVE = """
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    sock, _ = listener.accept()
    with sock:
"""
ECHO = (
    SERVE
    + """
        while data := sock.recv(1 << 16):
            sock.sendall(data)
"""
)
RELAY = (
    SERVE
    + """
        with socket.create_connection((sys.argv[2], int(sys.argv[3]))) as target:
            while data := sock.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
            target.recv(1)
"""
)
CLIENT_PLACES = " {host} {port} {file}"


def test_python_does_each_job_of_clients(script: Callable[[str], str]) -> None:
    is_right(bench("push", script(PUSH + "sock.sendall(data)") + CLIENT_PLACES))
    is_right(bench("pull", script(PULL + "open(sys.argv[3], 'wb').write(data)") + CLIENT_PLACES))


def test_standard_input_and_output_do_for_files(script: Callable[[str], str]) -> None:
    push = "sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))\nsock.sendall(sys.stdin.buffer.read())"
    is_right(bench("push", script(push) + " {host} {port}"))
    is_right(bench("pull", script(PULL + "sys.stdout.buffer.write(data)") + " {host} {port}"))


def test_python_does_each_job_of_servers(script: Callable[[str], str]) -> None:
    is_right(bench("echo", script(ECHO) + " {port}"))
    is_right(bench("relay", script(RELAY) + " {port} {target_host} {target_port}"))


@pytest.mark.parametrize("job", ["http-large", "http-small"])
def test_pythons_and_our_own_web_server(job: JobName) -> None:
    python = f"{sys.executable} -m http.server --bind 127.0.0.1 --directory {{directory}} {{port}}"
    results, not_run = bench(job, python, f"{sys.executable} -m roket_trio serve {{directory}} --bind {{port}}")
    assert not not_run
    assert [result.verdict for result in results] == ["measured", "measured"]


def test_roket_does_what_it_has_a_command_for() -> None:
    roket = f"{sys.executable} -m roket_trio"
    is_right(bench("push", f"{roket} send -q {{file}} {{host}}:{{port}}"))
    is_right(bench("relay", f"{roket} relay {{port}} {{target_host}}:{{target_port}}"))


def test_nc_and_socat() -> None:
    nc, socat = tool("nc"), tool("socat")
    for job, commands in {
        "push": [f"{nc} -N {{host}} {{port}}", f"{socat} -u STDIN TCP:{{host}}:{{port}}"],
        "pull": [f"{nc} {{host}} {{port}}", f"{socat} -u TCP:{{host}}:{{port}} CREATE:{{file}}"],
        "relay": [f"{socat} TCP-LISTEN:{{port}},fork,reuseaddr TCP:{{target_host}}:{{target_port}}"],
        "echo": [f"{socat} TCP-LISTEN:{{port}},fork,reuseaddr EXEC:cat"],
    }.items():
        results, not_run = bench(job, *commands)  # type: ignore[arg-type]
        assert not not_run
        assert [(result.program, result.verdict, result.reason) for result in results] == [
            (command, "measured", "") for command in commands
        ]


def test_a_server_that_serves_one_connection_is_started_again(script: Callable[[str], str]) -> None:
    once = script(ECHO.replace("while True:", "for _ in range(1):")) + " {port}"
    assert is_right(bench("echo", once, rounds=2)).rounds == 2


# --- wrong ones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1_234_567, (MIB << 20) - 1])
def test_one_byte_that_is_wrong_is_an_error_that_names_its_offset(script: Callable[[str], str], at: int) -> None:
    wrong = f"data = bytearray(data); data[{at}] ^= 1\n"
    push = script(PUSH + wrong + "sock.sendall(data)") + CLIENT_PLACES
    assert reason_of(bench("push", push)) == f"the byte at offset {at:,} is wrong"
    pull = script(PULL + wrong + "open(sys.argv[3], 'wb').write(data)") + CLIENT_PLACES
    assert reason_of(bench("pull", pull)) == f"the byte at offset {at:,} of the file is wrong"


def test_a_wrong_byte_is_found_in_every_other_job(script: Callable[[str], str], tmp_path: Path) -> None:
    spoilt = "data = bytes(byte ^ 1 if not index else byte for index, byte in enumerate(data[:9])) + data[9:]"
    echo = ECHO.replace("            sock.sendall", f"            {spoilt}\n            sock.sendall")
    assert "offset 0 is wrong" in reason_of(bench("echo", script(echo) + " {port}"))
    relay = RELAY.replace(
        "                target.sendall(data)", f"                {spoilt}\n                target.sendall(data)"
    )
    assert "offset 0 is wrong" in reason_of(bench("relay", script(relay) + " {port} {target_host} {target_port}"))
    http = (
        SERVE
        + """
        name = sock.recv(1 << 16).split()[1].decode()
        data = bytearray(open(sys.argv[2] + name, "rb").read())
        data[100] ^= 1
        sock.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + data)
"""
    )
    assert "offset 100 is wrong" in reason_of(bench("http-large", script(http) + " {port} {directory}"))
    assert "offset 100 of small-0 is wrong" in reason_of(bench("http-small", script(http) + " {port} {directory}"))


def test_pieces_in_the_wrong_order_are_found_though_their_number_is_right(script: Callable[[str], str]) -> None:
    push = script(PUSH + "sock.sendall(data[4096:8192] + data[:4096] + data[8192:])") + CLIENT_PLACES
    assert "is wrong" in reason_of(bench("push", push))


def test_one_that_stops_half_way(script: Callable[[str], str]) -> None:
    half = MIB << 19
    push = script(PUSH + "sock.sendall(data[:len(data) // 2])\nsys.exit('the disk is full')") + CLIENT_PLACES
    reason = reason_of(bench("push", push))
    assert reason.startswith(f"{half:,} of {half * 2:,} bytes came, and then: the connection ended")
    pull = script(PULL + "open(sys.argv[3], 'wb').write(data[:len(data) // 2])") + CLIENT_PLACES
    assert reason_of(bench("pull", pull)) == f"the file has {half:,} bytes of {half * 2:,}"


def test_one_that_sends_more_than_it_should(script: Callable[[str], str]) -> None:
    push = script(PUSH + "sock.sendall(data + b'!')") + CLIENT_PLACES
    assert reason_of(bench("push", push)) == f"more than {MIB << 20:,} bytes came"


def test_one_that_says_that_it_has_failed(script: Callable[[str], str]) -> None:
    push = script(PUSH + "sock.sendall(data)\nsock.close()\nsys.exit('no, it did not')") + CLIENT_PLACES
    assert reason_of(bench("push", push)) == "the bytes came, and then: exit status 1: no, it did not"


def test_one_that_waits_for_ever_is_given_so_much_time(script: Callable[[str], str]) -> None:
    push = script(PUSH + "sock.sendall(data[:1000])\ntime.sleep(1000)") + CLIENT_PLACES
    assert "was not done" in reason_of(bench("push", push, bounds=Bounds(seconds=5.0)))
    server = script(SERVE + "        time.sleep(1000)") + " {port}"
    assert "was not done" in reason_of(bench("echo", server, bounds=Bounds(seconds=5.0)))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_one_that_prints_for_ever_is_ended(script: Callable[[str], str], stream: str) -> None:
    push = script(PUSH + f"while True: sys.{stream}.write('more and more' * 10_000)") + CLIENT_PLACES
    reason = reason_of(bench("push", push, bounds=Bounds(seconds=120.0, output=1 << 20)))
    assert "it has printed" in reason


def test_one_that_writes_for_ever_into_the_file_that_it_pulls_is_ended(script: Callable[[str], str]) -> None:
    pull = script(PULL + "while True: sys.stdout.buffer.write(data)") + " {host} {port}"
    assert "it has written more than" in reason_of(bench("pull", pull))


def test_one_that_takes_more_and_more_memory_is_ended(script: Callable[[str], str]) -> None:
    push = (
        script(PUSH + "kept = []\nwhile True: kept.append(bytearray(b'x' * (1 << 20))); time.sleep(0.001)")
        + CLIENT_PLACES
    )
    reason = reason_of(bench("push", push, bounds=Bounds(seconds=120.0, memory=100 << 20)))
    assert "MiB of memory, 100 allowed" in reason


def test_one_that_forks_without_end_is_ended(script: Callable[[str], str]) -> None:
    push = (
        script(PUSH + "for _ in range(60):\n    if not os.fork(): time.sleep(1000)\ntime.sleep(1000)") + CLIENT_PLACES
    )
    assert "processes, 30 allowed" in reason_of(bench("push", push, bounds=Bounds(seconds=120.0, processes=30)))


def test_daemons_are_ended_too(script: Callable[[str], str], tmp_path: Path) -> None:
    names = tmp_path / "daemons"
    daemon = f"""
if not os.fork():
    os.setsid()
    if os.fork(): os._exit(0)
    with open({str(names)!r}, "a") as file: file.write(f"{{os.getpid()}}\\n")
    os.close(sock.fileno())
    time.sleep(1000)
os.wait()
sock.sendall(data)
"""
    is_right(bench("push", script(PUSH + daemon) + CLIENT_PLACES))
    pids = [int(word) for word in names.read_text().split()]
    assert len(pids) == 2  # a round that warms up, and one
    wait_until(lambda: not any(map(procfs.is_alive, pids)), "the daemons have ended")


def test_children_count_for_memory_and_cpu(script: Callable[[str], str]) -> None:
    child = """
if not os.fork():
    kept = bytearray(b"x" * (80 << 20))
    while time.process_time() < 0.5: pass
    os._exit(0)
os.wait()
sock.sendall(data)
"""
    result = is_right(bench("push", script(PUSH + child) + CLIENT_PLACES))
    assert result.peak_rss_kib > 80 << 10
    assert result.cpu_seconds_per_gib * MIB / 1024 >= 0.45


# --- those that do not run --------------------------------------------------------------------------------------------


def test_what_does_not_start_connect_or_listen_was_not_measured(script: Callable[[str], str]) -> None:
    for job, command, why in (
        ("push", "/nowhere/program {port}", "No such file"),
        ("push", script("sys.exit('I will not')") + " {port}", "it did not connect (exit status 1: I will not)"),
        ("echo", script("sys.exit(3)") + " {port}", "it does not listen on"),
    ):
        _, not_run = bench(job, command)  # type: ignore[arg-type]
        assert why in not_run[command]


def test_one_that_never_listens_is_given_so_much_time(script: Callable[[str], str]) -> None:
    command = script("time.sleep(1000)") + " {port}"
    _, not_run = bench("echo", command, bounds=Bounds(seconds=2.0))
    assert "within 2 s" in not_run[command]


def test_others_are_measured_all_the_same(script: Callable[[str], str]) -> None:
    results, not_run = bench("push", "/nowhere/program {port}", script(PUSH + "sock.sendall(data)") + CLIENT_PLACES)
    assert list(not_run) == ["/nowhere/program {port}"]
    assert [result.verdict for result in results] == ["error", "measured"]


def test_a_command_needs_places_for_what_it_is_told() -> None:
    for job, command in (("push", "nc"), ("relay", "relay {port}"), ("echo", ""), ("push", "'{port}")):
        with pytest.raises(ValueError, match=r"has no \{|empty|quotation"):
            Program(command, job)  # type: ignore[arg-type]


def test_nothing_is_left_in_the_directory(tmp_path: Path) -> None:
    with open_bench("http-small", 1, directory=str(tmp_path)):
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_program_that_cannot_be_started_is_no_program() -> None:
    with pytest.raises(NotRunError, match="does not start"):
        MeasuredProgram(["/nowhere/program"], Bounds())


# --- what is slower is found ------------------------------------------------------------------------------------------


def test_twice_the_work_with_pauses_is_found_and_an_unchanged_program_is_not_accused(
    script: Callable[[str], str],
) -> None:
    """By construction a hundred times slower: no load of this machine hides it, and none makes it up."""
    plain = script(PUSH + "sock.sendall(data)") + CLIENT_PLACES
    (then,), _ = bench("push", plain, rounds=3)
    generous = 20 * then.high / then.ratio
    slow = script(
        PUSH + "for at in range(0, len(data), 1 << 16): sock.sendall(data[at:at + (1 << 16)]); time.sleep(0.3)"
    )
    (again,), _ = bench("push", plain, rounds=3, asked=Asked(baseline={plain: then}, tolerance=generous))
    assert again.verdict in ("pass", "inconclusive")
    (result,), _ = bench("push", slow + CLIENT_PLACES, asked=Asked(at_most=0.001))
    assert result.verdict == "fail"
    assert sum(result.seconds) >= 0.3 * 31


# --- the client of HTTP -----------------------------------------------------------------------------------------------

BODY = payload(10_000)


def answered(*answers: bytes) -> tuple[int, threading.Thread]:
    """A server that answers one request after the other, each on a connection of its own if that says so."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        left = list(answers)
        with listener:
            while left:
                sock, _ = listener.accept()
                with sock:
                    while left and sock.recv(4096):
                        answer = left.pop(0)
                        sock.sendall(answer.removeprefix(b"!"))
                        if answer.startswith(b"!"):
                            break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return listener.getsockname()[1], thread


CHUNKED = b"".join(
    b"%x;a=b\r\n%s\r\n" % (len(BODY[at : at + 999]), BODY[at : at + 999]) for at in range(0, 10_000, 999)
)
GOOD = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + BODY,
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED + b"0\r\nA: b\r\n\r\n",
    b"!HTTP/1.1 200 OK\r\n\r\n" + BODY,
    b"!HTTP/1.0 200 OK\r\nContent-Length: 10000\r\n\r\n" + BODY,
    b"!HTTP/1.1 200 \r\nConnection: close\r\nContent-Length: 10000\r\n\r\n" + BODY,
    # It closes a connection that it has not said that it would close.
    b"!HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + BODY,
    b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + BODY,
]


def test_answers_of_each_framing_are_whole() -> None:
    port, thread = answered(*GOOD)
    into = memoryview(bytearray(10_000))
    with HTTPClient(port, 60) as client:
        for _ in GOOD:
            into[:] = bytes(10_000)
            assert client.get("file", into) == 10_000
            assert bytes(into) == BODY
    thread.join(60)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered 404"),
        (b"!HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + BODY[:-1], "cut after 9999 of 10000"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n" + BODY, "has 10001 bytes"),
        (b"!HTTP/1.1 200 OK\r\n\r\n" + BODY + b"!", "longer than 10000"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length"),
        (b"!HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED, "closed the connection before"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "not the size of a chunk"),
        (b"!220 mail.example ESMTP\r\n\r\n", "is not HTTP/1"),
        (b"!HTTP/1.1 200 OK\r\nA: b\r\n", "closed the connection before"),
        (b"x" * 70_000, "does not end"),
    ],
)
def test_answers_that_are_wrong_are_none(answer: bytes, why: str) -> None:
    port, thread = answered(answer)
    with HTTPClient(port, 60) as client, pytest.raises(AnswerError, match=why):
        client.get("file", memoryview(bytearray(10_000)))
    thread.join(60)


def test_this_process_has_no_descriptor_left(script: Callable[[str], str]) -> None:
    bench("push", script(PUSH + "sock.sendall(data)") + CLIENT_PLACES)
    before = len(os.listdir("/proc/self/fd"))
    bench("push", script(PUSH + "sock.sendall(data)") + CLIENT_PLACES, "/nowhere/program {port}")
    assert len(os.listdir("/proc/self/fd")) == before
