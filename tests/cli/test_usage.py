"""What is typed and what is read: addresses, rates, help, usage errors; and that starting is cheap."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from argparse import ArgumentParser, ArgumentTypeError
from importlib import import_module
from pathlib import Path

import pytest
from support.programs import LIMIT
from support.roket_command import command, environment, roket

import roket_trio
from roket_trio._cli import COMMANDS, main
from roket_trio._cli.console.exit_codes import ExitCode
from roket_trio._cli.console.units import duration, exact_size, short_size, speed
from roket_trio._cli.console.values import Address, count, local_address, rate, remote_address, seconds

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host:1", Address("host", 1)),
        ("10.0.0.1:65535", Address("10.0.0.1", 65535)),
        ("[::1]:9000", Address("::1", 9000)),
        ("[fe80::1%2]:9000", Address("fe80::1%2", 9000)),
        ("unix:/run/x:y", Address(path="/run/x:y")),
        ("unix:@name", Address(path="\0name")),
    ],
)
def test_where_to_connect(text: str, address: Address) -> None:
    assert remote_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9000", Address("127.0.0.1", 9000)),
        ("0", Address("127.0.0.1", 0)),
        (":9000", Address("127.0.0.1", 9000)),
        ("*:9000", Address(None, 9000)),
        ("0.0.0.0:9000", Address("0.0.0.0", 9000)),
        ("[::]:9000", Address("::", 9000)),
        ("unix:x", Address(path="x")),
    ],
)
def test_where_to_listen_is_here_unless_told_otherwise(text: str, address: Address) -> None:
    assert local_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":9", "host:0", "host:65536", "host:" + "9" * 5000, "host:x", "::1:9", "unix:", "unix:@"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        remote_address(text)


@pytest.mark.parametrize("text", ["", "x", "-1", "65536", "::1:9", "9000 ", "٩", "unix:"])
def test_what_is_no_place_to_listen_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        local_address(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("500K", 500 << 10),
        ("10m", 10 << 20),
        ("1.5G", 1.5 * (1 << 30)),
        ("2MiB/s", 2 << 20),
        ("1TB", 1 << 40),
    ],
)
def test_rates(text: str, value: float) -> None:
    assert rate(text) == value


def test_what_is_no_rate_time_or_number_is_refused() -> None:
    for text in ("", "0", "-1", "fast", "1X", "1 M", "nan", "inf"):
        with pytest.raises(ArgumentTypeError):
            rate(text)
    for text in ("", "0", "-1", "soon", "nan", "inf"):
        with pytest.raises(ArgumentTypeError):
            seconds(text)
    for text in ("", "0", "-1", "1.5", "many"):
        with pytest.raises(ArgumentTypeError):
            count(text)
    assert (seconds("0.5"), count("3")) == (0.5, 3)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1023 << 10, "1.0 MiB"),
        (99 << 20, "99.0 MiB"),
        (100 << 20, "100 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 63, "8.0 EiB"),
        (10**22, "8674 EiB"),
    ],
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert short_size(size) == words


def test_exact_sizes_times_and_speeds_in_words() -> None:
    assert [exact_size(size) for size in (0, 1, 2, 1024)] == ["0 bytes", "1 byte", "2 bytes", "1024 bytes (1.0 KiB)"]
    assert [duration(time) for time in (0.004, 9.99, 12.34, 65, 3725)] == [
        "0.00 s",
        "9.99 s",
        "12.3 s",
        "1:05",
        "1:02:05",
    ]
    assert speed(1 << 30, 0.5) == "2.0 GiB/s"
    assert speed(0, 0.0) == "0 B/s"


# --- help and usage ---------------------------------------------------------------------------------------------------


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    done = roket(capsys, "--help")
    assert (done.code, done.errors) == (0, "")
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.summary)}$", done.output, flags=re.MULTILINE)


def test_nothing_asked_for_is_a_usage_error_that_helps(capsys: pytest.CaptureFixture[str]) -> None:
    done = roket(capsys)
    assert (done.code, done.output) == (ExitCode.USAGE, "")
    assert done.errors == roket(capsys, "--help").output


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert roket(capsys, "--version") == (0, f"roket {roket_trio.__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_that_suffices(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = roket(capsys, name, "--help")
    assert (done.code, done.errors) == (0, "")
    assert done.output.startswith(f"usage: roket {name} ")
    assert "exit codes: 0 done; 1 check failed; 2 usage" in " ".join(done.output.split())
    assert all(len(line) <= 80 for line in done.output.splitlines())
    assert re.search(rf"\nexamples:\n(  .+\n)*?  roket {name} ?.*\n(  .+\n)*$", done.output)
    monkeypatch.setenv("COLUMNS", "60")
    lines = [line for line in roket(capsys, name, "--help").output.splitlines() if len(line) > 60]
    assert all(re.fullmatch(r" +\[--\w+ \w+( \| --\w+( \w+)?)+\]", line) for line in lines)  # argparse breaks no group


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_in_the_help_are_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the command line goes: what they do is tested elsewhere."""
    module = import_module(COMMANDS[name].module)
    parser = ArgumentParser(exit_on_error=False)
    module.configure(parser)
    for line in module.EXAMPLES.splitlines():
        command_line = re.split(r" {2,}", line)[0].split("|")
        words = shlex.split(next(part for part in command_line if "roket" in part))
        assert words[0] == "roket"
        if words[1] == name:
            parser.parse_args(words[2:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["snd", "x"], "roket: there is no command 'snd': did you mean send? (see roket --help)"),
        (["xyzzy"], "roket: there is no command 'xyzzy': there are "),
        (["send"], "roket send: the following arguments are required: FILE, HOST:PORT (see roket send --help)"),
        (["send", "x", "y"], "roket send: argument HOST:PORT: 'y' is neither HOST:PORT nor unix:PATH (see "),
        (["send", "x", "h:1", "--rate", "fast"], "roket send: argument --rate: a rate is a number of bytes per second"),
        (["send", "x", "h:1", "--dig"], "roket send: unrecognized arguments: --dig"),
        (
            ["send", "-", "h:1", "--resume"],
            "roket send: --resume needs a file with a size, and standard input has none",
        ),
        (["recv", "0", "f", "--unpack", "--digest"], "roket recv: --unpack is not for --digest"),
        (["recv", "0", "f", "--key", "k"], "roket recv: TLS needs --cert"),
        (["recv", "0", "f", "--tls"], "roket recv: TLS needs --cert"),
        (["send", "/dev/null", "h:1", "--key", "k"], "roket send: --key needs --cert"),
        (["send", "/dev/null", "unix:x", "--tls"], "roket send: TLS over a UNIX socket needs --tls-name"),
        (["relay", "0"], "roket relay: the following arguments are required: TARGET"),
        (["serve", "--bind", "x"], "roket serve: argument --bind: a port is a number"),
    ],
)
def test_usage_errors_are_one_line_and_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "-" in arguments:
        monkeypatch.setattr("roket_trio._cli.local_files.send_sources._size_from", lambda fd, start: None)
    done = roket(capsys, *arguments)
    assert (done.code, done.output) == (ExitCode.USAGE, "")
    assert done.errors.startswith(message)
    assert done.errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_exit_codes_are_what_they_are() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0,
        "CHECK_FAILED": 1,
        "USAGE": 2,
        "CUT": 3,
        "TIMEOUT": 4,
        "LOCAL_FILE": 5,
        "CONNECTION": 6,
    }


# --- as a program -----------------------------------------------------------------------------------------------------


def test_the_entry_point_is_there() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, name = declared["roket"].partition(":")
    assert getattr(import_module(module), name) is main


def test_python_m_is_the_command() -> None:
    done = subprocess.run(
        command("--version"), env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"roket {roket_trio.__version__}\n", "")


def test_a_reader_who_leaves_is_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            command("--help"),
            env=environment(),
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


def loaded_by(*arguments: str) -> set[str]:
    """The modules that are there when the command has ended."""
    code = f"""
import json, sys
from roket_trio._cli import main
try:
    main({list(arguments)!r})
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), check=True, capture_output=True, text=True, timeout=LIMIT
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["send", "--help"], ["recv", "0"], ["serve", "--bind", "x"]])
def test_help_and_usage_errors_load_no_event_loop(arguments: list[str]) -> None:
    assert not loaded_by(*arguments) & {"trio", "anyio", "asyncio", "ssl", "h11", "rich", "tarfile"}


def test_sending_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    loaded = loaded_by("send", str(tmp_path / "missing"), "127.0.0.1:1")
    assert "trio" in loaded
    assert not loaded & {"h11", "rich", "asyncio", "tarfile", "mimetypes"}


def test_a_handler_of_sigint_that_is_not_python_s_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program in another language that embeds the interpreter: ``getsignal`` knows nothing of its handler."""
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    assert main(["--version"]) == ExitCode.DONE
    assert capsys.readouterr().out.startswith("roket ")


def test_the_handler_of_sigint_is_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert main(["--version"]) == ExitCode.DONE
    assert signal.getsignal(signal.SIGINT) is before
