"""``roket check``, ``report`` and ``watch``, by their arguments, their output and their exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import termios
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import parse

import pytest

from roket_trio._cli.commands import check as check_command
from roket_trio._cli.commands import report as report_command
from roket_trio._cli.commands import watch as watch_command
from roket_trio._cli.console.signals import signals_interrupt
from roket_trio._cli.console.values import Address
from roket_trio.testing import take_census
from roket_trio.testing._close_suite.cases import CASES
from roket_trio.testing._close_suite.jobs import JOBS
from roket_trio.testing._results.case_result import CaseResult, parse_results

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness needs Linux")

CLOSERS = Path(__file__).parents[1] / "support" / "closers.py"
GOOD = shlex.join([sys.executable, str(CLOSERS)])
RUNNER = """\
import argparse, importlib, sys
module = importlib.import_module("roket_trio._cli.commands." + sys.argv[1])
parser = argparse.ArgumentParser(prog="roket " + sys.argv[1])
module.configure(parser)
sys.exit(module.run(parser.parse_args(sys.argv[2:])))
"""
BOUND = 20.0


def roket(name: str, *arguments: str) -> int:
    """Run a command in this process; its exit code."""
    module: Any = import_module(f"roket_trio._cli.commands.{name}")
    parser = ArgumentParser(prog=f"roket {name}", description=module.DESCRIPTION)
    module.configure(parser)
    code: int = module.run(parser.parse_args(arguments))
    return code


def results_in(path: Path) -> list[CaseResult]:
    return list(parse_results(path.read_text(encoding="utf-8").splitlines()))


# --- check -----------------------------------------------------------------------------------------------------------


def test_a_good_program_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "good.jsonl"
    arguments = ["--client", GOOD, "--case", "close/1.1", "--case", "close/3", "--jsonl", str(lines), "--name", "good"]
    assert roket("check", *arguments) == 0
    results = results_in(lines)
    expected = ["close/1.1", "close/3.1", "close/3.2", "close/3.3", "close/3.4", "close/3.5"]
    assert [result.case for result in results] == expected
    assert {result.verdict for result in results} == {"pass"}
    assert {result.target for result in results} == {"good"}
    told = capsys.readouterr()
    assert told.out == ""
    assert "close/1.1 MUST   ok" in told.err
    assert told.err.endswith("good: 6 passed\n")


def test_a_bad_one_fails_and_the_command_that_repeats_it_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "env MUTANT=close/2.1 " + GOOD
    lines = tmp_path / "bad.jsonl"
    arguments = ["--client", command, "--case", "close/2.1", "--within", "1.5", "--jsonl", str(lines)]
    assert roket("check", *arguments) == 1
    (result,) = results_in(lines)
    assert (result.data, result.close, result.verdict, result.target) == ("truncated", "reset", "fail", "env")
    told = capsys.readouterr().err
    assert "close/2.1 MUST   FAIL         truncated, reset: the peer received" in told
    assert result.repro in told
    words = shlex.split(result.repro)
    assert words[:2] == ["roket", "check"]
    assert roket(*words[1:]) == 1


def test_where_nothing_was_judged_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert roket("check", "--client", "env /no/such/program", "--case", "close/1.1") == 0
    told = capsys.readouterr().err
    assert "0 passed, 1 unsupported\nnothing was judged: the program has ended with exit status 127" in told


def test_what_repeats_a_case_has_all_that_matters() -> None:
    parser = ArgumentParser()
    check_command.configure(parser)
    given = ["--target", "tcp://[::1]:80", "--name", "a b", "--speaks", "echo", "--within", "30.0", "--start", "60.0"]
    given += ["--pid", "5"]
    repeats = shlex.split(check_command._repro(parser.parse_args(given), CASES[0]))
    assert repeats[:2] == ["roket", "check"]
    again = parser.parse_args(repeats[2:])
    assert (again.case, again.target) == (["close/1.1"], Address("::1", 80))
    assert vars(again) | {"case": None} == vars(parser.parse_args(given))
    assert "[::1]" in repeats[3]
    assert "--start" not in check_command._repro(parser.parse_args(["--client", "x"]), CASES[0])


def test_strict_counts_a_should() -> None:
    command = "env MUTANT=close/3.4 " + GOOD
    arguments = ["--client", command, "--case", "close/3.4", "--within", "1"]
    assert roket("check", *arguments) == 0
    assert roket("check", *arguments, "--strict") == 1


def test_a_server_on_a_port_of_its_own(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    code = (
        "import socket, sys, threading\n"
        "listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "def serve(s):\n with s:\n  try:\n   while d := s.recv(65536): s.sendall(d)\n  except OSError: pass\n"
        "while True:\n s, _ = listener.accept()\n threading.Thread(target=serve, args=(s,), daemon=True).start()\n"
    )
    command = shlex.join([sys.executable, "-c", code, str(port)])
    lines = tmp_path / "server.jsonl"
    arguments = ["--server", command, "--port", str(port), "--speaks", "echo", "--jsonl", str(lines)]
    assert roket("check", *arguments, "--case", "close/1.1", "--case", "close/5.6", "--case", "close/4.3") == 0
    assert [result.role for result in results_in(lines)] == ["server"] * 3


def test_a_target_that_is_running(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        arguments = ["--target", url, "--case", "close/1.1", "--within", "0.3", "--jsonl", "-"]
        assert roket("check", *arguments) == 1
        (result,) = parse_results(capsys.readouterr().out.splitlines())
        assert (result.close, result.observer) == ("half-open", "peer")
        assert roket("check", *arguments, "--pid", str(os.getpid())) == 1
        (result,) = parse_results(capsys.readouterr().out.splitlines())
        assert result.close == "leaked"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "one of --client, --server, --relay and --target is needed"),
        (["--client", ""], "the command is empty"),
        (["--client", "nc {host} {port}", "--case", "close/9.1"], "there is no case 'close/9.1'"),
        (["--client", "nc {host} {port}", "--case", "close/2.1"], "none of these cases is for a client"),
        (["--target", "tcp://192.0.2.1:80"], "192.0.2.1 is not a loopback address"),
        (["--client", "x", "--pid", "1"], "--pid goes with --target"),
        (["--client", "x", "--port", "1"], "--port goes with --server"),
    ],
)
def test_wrong_arguments_are_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert roket("check", *arguments) == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.startswith("roket check: ")


def test_a_program_or_a_file_that_is_not_there_is_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert roket("check", "--client", "/no/such/program") == 5
    assert capsys.readouterr().err == "roket check: /no/such/program: No such file or directory\n"
    assert roket("check", "--client", "true {port}", "--jsonl", str(tmp_path / "no" / "where")) == 5
    assert capsys.readouterr().err == f"roket check: {tmp_path}/no/where: No such file or directory\n"


def test_a_command_without_a_port_is_told_what_it_was_taken_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert roket("check", "--client", "false", "--case", "close/1.3", "--within", "0.5") == 1
    assert "its command has no {port}: it was taken for a program that follows" in capsys.readouterr().err
    assert roket("check", "--client", "false {port}", "--case", "close/1.3", "--within", "0.5") == 1
    assert "has no {port}" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--target", "http://x"],
        ["--target", "tcp://:80"],
        ["--port", "0"],
        ["--within", "0"],
        ["--within", "x"],
        ["--at-once", "0"],
        ["--client", "x", "--server", "y"],
        ["--speaks", "latin"],
    ],
)
def test_values_are_checked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        roket("check", *arguments)
    assert caught.value.code == 2
    capsys.readouterr()


def test_a_target_where_nobody_listens_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    started = time.monotonic()
    assert roket("check", "--target", f"tcp://127.0.0.1:{port}") == 6
    assert time.monotonic() - started < 5
    assert capsys.readouterr().err == f"roket check: 127.0.0.1:{port}: Connection refused\n"


def test_addresses_of_targets() -> None:
    assert check_command._server_url("tcp://[::1]:80/") == Address("::1", 80)
    assert check_command._server_url("tcp://localhost:8080") == Address("localhost", 8080)


def test_the_cases_and_the_contract_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert roket("check", "--list") == 0
    listed = capsys.readouterr().out
    assert all(case.address in listed and case.why in listed for case in CASES)
    assert roket("check", "--jobs") == 0
    listed = capsys.readouterr().out
    assert "ROKET_PORT" in listed
    assert all(f"{job}\n" in listed for job in JOBS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_programs_too(number: signal.Signals) -> None:
    """By the command itself: it has a handler of its own for SIGINT."""
    marker = f"{time.time_ns()}"
    sleeper = shlex.join([sys.executable, "-c", f"import time; time.sleep(60)  # {marker}"])
    with interruptible("check", "--client", sleeper, "--start", "30") as process:
        deadline = time.monotonic() + BOUND
        while not programs_with(marker, process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, told = process.communicate(timeout=BOUND)
        assert process.returncode == 128 + number
    assert re.fullmatch(rf"roket check: interrupted by {number.name} after 0 of \d+ cases\n", told)
    assert programs_with(marker, process.pid) == []


def test_an_interruption_waits_for_no_target() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with interruptible("check", "--target", url, "--within", "60") as process:
            connection, _ = listener.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=BOUND)
                assert process.returncode == 130


def test_a_handler_that_is_not_python_s_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in another language that embeds the interpreter: ``getsignal`` knows nothing of its handler."""
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as foreign:
        foreign.setattr(signal, "getsignal", lambda number: None)
        with signals_interrupt():
            pass
    assert signal.getsignal(signal.SIGTERM) is before


@contextmanager
def interruptible(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command ``roket``, as in the foreground of a terminal: Ctrl-C is not ignored."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from roket_trio._cli import main; sys.exit(main())"
    )
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def programs_with(marker: str, but: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if marker.encode() in line and int(folder.name) != but:
            found.append(int(folder.name))
    return found


# --- report ----------------------------------------------------------------------------------------------------------


def line(**changes: Any) -> str:
    found = {
        "case": "close/1.1",
        "level": "MUST",
        "role": "client",
        "target": "it",
        "data": "complete",
        "close": "clean",
        "verdict": "pass",
        "bytes": 1,
        "ms": 1,
        "events": (),
        "observer": "peer",
        "repro": "",
        "reason": "",
        **changes,
    }
    return CaseResult(**found).to_json() + "\n"


def test_several_files_become_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text(line(target="one"))
    two.write_text(line(target="two", level="SHOULD", verdict="fail", close="leaked"))
    html, junit = tmp_path / "page.html", tmp_path / "junit.xml"
    arguments = [str(one), str(two), "--html", str(html), "--junit", str(junit), "--title", "Mine"]
    assert roket("report", *arguments) == 0
    told = capsys.readouterr().out
    assert "close/1.1" in told
    assert "leaked" in told
    assert told.endswith("1 passed, 1 SHOULD failed\n")
    assert "Mine" in html.read_text(encoding="utf-8")
    assert [suite.get("name") for suite in parse(junit).getroot()] == ["one (client)", "two (client)"]
    assert roket("report", *arguments, "--strict", "--quiet") == 1
    assert capsys.readouterr().out == ""


def test_what_is_no_report_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(line() + "nonsense\n")
    assert roket("report", str(file)) == 5
    assert "bad.jsonl: line 2: " in capsys.readouterr().err
    file.write_bytes(b"\x90\xff")
    assert roket("report", str(file)) == 5
    assert "bad.jsonl: it does not hold lines of JSON" in capsys.readouterr().err
    assert roket("report", str(tmp_path / "none")) == 5
    assert capsys.readouterr().err == f"roket report: {tmp_path}/none: No such file or directory\n"
    assert roket("report", os.devnull, "--html", str(tmp_path / "no" / "where")) == 5


@pytest.mark.parametrize("color", [False, True])
def test_what_programs_say_does_nothing_to_the_terminal(
    color: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report_command, "is_colorful", lambda stream: color)
    file = tmp_path / "evil.jsonl"
    file.write_text(
        line(case="\x1b[1A", target="\x1b]0;evil\x07\x9b2J\n", verdict="fail", reason="\x1b[2J", repro="\x1b[3J")
    )
    assert roket("report", str(file)) == 1
    told = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", told)
    assert "]0;evil??2J" in told.splitlines()[0]


def test_a_name_that_is_no_utf_8_is_written_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9")
    lines, html, junit = tmp_path / "name.jsonl", tmp_path / "page.html", tmp_path / "junit.xml"
    assert roket("check", "--client", "true", "--name", name, "--case", "close/1.1", "--jsonl", str(lines)) == 1
    assert [result.target for result in results_in(lines)] == [name]
    assert roket("report", str(lines), "--html", str(html), "--junit", str(junit)) == 1
    assert "caf\\udce9" in html.read_text(encoding="utf-8")
    assert "caf?" in capsys.readouterr().out


WRONG: tuple[object, ...] = (1, None, {}, ["x"])


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "[]",
        "1",
        '{"schema": "roket.close/1"}',
        *(
            line().replace('"ms": 1', f'"ms": {value}')
            for value in ("-1", "1.5", "NaN", "1e999", "true", "null", '"1"', "9" * 400, "9" * 5000)
        ),
        *(line(**{name: "\x1b" + "x" * 10_000}) for name in ("level", "role", "data", "close", "verdict")),
        *(line(**{name: value}) for name in ("case", "target", "reason", "repro") for value in WRONG),
        *(
            line().replace('"events": []', f'"events": {value}')
            for value in (
                "7",
                '{"a": 1}',
                "[1]",
                '[{"ms": 1}]',
                '[{"ms": 1, "who": "x", "connection": 0, "what": "y"}]',
            )
        ),
    ],
)
def test_lines_of_other_kinds_are_told_briefly(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text(line() + text + "\n")
    assert text != line()
    assert roket("report", str(file), "--html", str(tmp_path / "page"), "--junit", str(tmp_path / "junit")) == 5
    told = capsys.readouterr().err
    assert "odd.jsonl: line 2: " in told
    assert len(told) < 500


def test_standard_input_is_a_file_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", iter([line()]))
    assert roket("report", "-") == 0
    capsys.readouterr()


# --- watch -----------------------------------------------------------------------------------------------------------


@contextmanager
def leaking() -> Iterator[tuple[int, socket.socket]]:
    """A process with a connection in CLOSE_WAIT, one that is fine, and a listener."""
    code = (
        "import socket, sys\n"
        "a = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "b = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "l = socket.create_server(('127.0.0.1', 0))\n"
        "print(flush=True)\ninput()\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-c", code, str(listener.getsockname()[1])]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child:
            assert child.stdin
            assert child.stdout
            fine, _ = listener.accept()
            leaks, _ = listener.accept()
            with fine, leaks:
                child.stdout.readline()
                leaks.shutdown(socket.SHUT_WR)
                deadline = time.monotonic() + BOUND
                while not take_census(child.pid).lingering:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                yield child.pid, leaks
                child.stdin.close()


def test_close_wait_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    with leaking() as (pid, leaks):
        assert roket("watch", str(pid), "--once") == 1
        lines = capsys.readouterr().out.splitlines()
        host, port = leaks.getsockname()
        assert lines[0].startswith(f"process {pid}: 3 sockets, 1 ")
        assert re.match(
            r" *\S+ s  CLOSE_WAIT +1  the peer has finished \(FIN\) and this side has not closed: fd ", lines[1]
        )
        assert f"-> {host}:{port}, " in lines[1]
        assert "ESTABLISHED" in lines[2]
        assert "LISTEN" in lines[3]
        assert lines[4].startswith("observed by ")
        assert roket("watch", str(pid), "--once", "--json") == 1
        found = json.loads(capsys.readouterr().out)
        assert found["schema"] == "roket.census/1"
        assert [one["state"] for one in found["sockets"]] == ["CLOSE_WAIT", "ESTABLISHED", "LISTEN"]
        assert [one["fault"] for one in found["sockets"]] == ["CLOSE_WAIT", None, None]


def test_ages_are_counted_from_when_a_state_was_first_seen() -> None:
    ages = watch_command.Ages()
    left, right = socket.socketpair()
    with left, right:
        census = take_census()
        ages.look(census)
        time.sleep(0.05)
        later = take_census()
        ages.look(later)
        record = next(one for one in later.sockets if left.fileno() in one.fds)
        assert 0.04 <= ages.age(record, later.at) < BOUND


def test_watching_ends_with_the_process() -> None:
    with leaking() as (pid, _):
        command = [sys.executable, "-c", RUNNER, "watch", str(pid), "--interval", "0.05", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout
            for _ in range(3):
                assert json.loads(watcher.stdout.readline())["pids"] == [pid]
            os.kill(pid, signal.SIGKILL)
            _, errors = watcher.communicate(timeout=BOUND)
            assert errors == f"process {pid} has ended\n"
            assert watcher.returncode == 0


def test_watching_ends_with_ctrl_c() -> None:
    with leaking() as (pid, _):
        command = [sys.executable, "-c", RUNNER, "watch", str(pid), "--interval", "0.05"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watcher:
            assert watcher.stdout
            watcher.stdout.readline()
            watcher.send_signal(signal.SIGINT)
            _, errors = watcher.communicate(timeout=BOUND)
            assert (watcher.returncode, errors) == (0, b"")


def test_watching_ends_when_nobody_reads() -> None:
    with leaking() as (pid, _):
        command = [sys.executable, "-c", RUNNER, "watch", str(pid), "--interval", "0.05", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watcher:
            assert watcher.stdout
            assert watcher.stderr
            watcher.stdout.readline()
            watcher.stdout.close()
            try:
                assert watcher.wait(BOUND) == 0
            finally:
                watcher.kill()
            assert watcher.stderr.read() == b""


def test_on_a_small_terminal_what_should_be_gone_stays_in_sight() -> None:
    """The screen is redrawn; were it longer or wider than the terminal, its top would scroll away."""
    with leaking() as (pid, _):
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (6, 50))
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "", "COLUMNS": "", "LINES": ""}
        command = [sys.executable, "-c", RUNNER, "watch", str(pid), "--interval", "0.05"]
        with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment) as watcher:
            os.close(theirs)
            told = b""
            while told.count(b"\x1b[H") < 3:
                told += os.read(ours, 65536)
            watcher.kill()
            watcher.communicate(timeout=BOUND)
        os.close(ours)
        screen = re.sub(r"\x1b\[[\d;]*m", "", told.decode().split("\x1b[H\x1b[J")[2]).splitlines()
        assert len(screen) <= 5
        assert max(map(len, screen)) <= 50
        assert "CLOSE_WAIT" in screen[1]
        assert "the peer has finished (FIN) and this side has not closed" in " ".join(" ".join(screen).split())
        assert any(row.startswith("and ") for row in screen)


def test_of_several_processes_each_socket_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with leaking() as (pid, _):
        assert roket("watch", str(os.getpid()), "--children", "--once") == 1
        assert f": process {pid}, fd " in capsys.readouterr().out


def test_a_process_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert roket("watch", str(child.pid)) == 2
    assert "there is no process" in capsys.readouterr().err
