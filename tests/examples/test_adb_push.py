"""adb_push.py with a scripted device, which the real adb takes for one, too."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.adb_device import SERIAL, Device, Pushed
from support.example_programs import LIMIT, result, running
from support.programs import tool

from roket_trio.testing._close_suite.ports import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile and RST as Linux has them")

SIZES = {"empty": 0, "byte": 1, "chunk": 65536, "more": 65537, "large": 1_000_003}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Of every kind of length, with modes and times of their own."""
    chance = random.Random(0)
    paths = []
    for number, (name, size) in enumerate(SIZES.items()):
        path = tmp_path / name
        path.write_bytes(chance.randbytes(size))
        path.chmod((0o644, 0o600, 0o755, 0o444, 0o640)[number])
        os.utime(path, (0, 1_000_000_000 + number))
        paths.append(path)
    return paths


def as_it_is(path: Path) -> Pushed:
    """What a device must have of a file."""
    status = path.stat()
    chunks = [65536] * (status.st_size // 65536) + [rest for rest in [status.st_size % 65536] if rest]
    return Pushed(status.st_mode, int(status.st_mtime), path.read_bytes(), chunks)


@contextmanager
def pushing(port: int, *paths: Path, directory: str = "/sdcard", **more: str) -> Iterator[subprocess.Popen[str]]:
    variables = {"ANDROID_ADB_SERVER_PORT": str(port), "ANDROID_SERIAL": "", **more}
    with running("adb_push.py", *paths, directory, stderr=subprocess.PIPE, **variables) as program:
        yield program


def test_the_demonstration() -> None:
    with running("adb_push.py") as program:
        assert result(program) == (0, "1000 of 1000 files pushed, closed CLEAN\n", "")


@pytest.mark.parametrize("serial", ["", SERIAL])
def test_every_byte_mode_and_time_arrives(serial: str, files: list[Path]) -> None:
    with Device() as device:
        with pushing(device.port, *files, ANDROID_SERIAL=serial) as program:
            status, output, errors = result(program)
    assert (status, errors) == (0, "")
    assert re.fullmatch(r"5 of 5 files pushed, closed (CLEAN|ACKED)\n", output)
    assert device.services == [f"host:transport:{serial}" if serial else "host:transport-any", "sync:"]
    assert device.ends == ["quit"]
    assert device.files == {f"/sdcard/{path.name}": as_it_is(path) for path in files}


def test_a_file_that_the_device_refuses_stops_no_other(files: list[Path]) -> None:
    with Device(
        refuse=lambda path: "couldn't create file: Read-only file system" if "more" in path else None
    ) as device:
        with pushing(device.port, *files) as program:
            status, output, errors = result(program)
    assert status == 1
    assert errors == f"{files[3]}: couldn't create file: Read-only file system\n"
    assert output.startswith("4 of 5 files pushed, ")
    assert device.files == {f"/sdcard/{path.name}": as_it_is(path) for path in files if path.name != "more"}


def test_no_file_waits_for_the_answer_to_the_one_before(files: list[Path]) -> None:
    """The device answers nothing before it has read everything; a client in lockstep would wait for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        with pushing(listener.getsockname()[1], files[1], files[1], files[1]) as program:
            peer, _ = listener.accept()
            with peer, peer.makefile("rb") as file:
                peer.settimeout(LIMIT)
                for _ in range(2):
                    file.read(int(file.read(4), 16))
                    peer.sendall(b"OKAY")
                received = b""
                while not received.endswith(b"QUIT\0\0\0\0"):
                    received += file.read(1)
                assert received.count(b"DONE") == 3
                peer.sendall(b"OKAY\0\0\0\0" * 3)
            assert result(program)[0] == 0


@pytest.mark.parametrize("linger", [True, False], ids=["by RST", "by FIN"])
def test_a_device_that_vanishes_in_the_middle(linger: bool, files: list[Path]) -> None:
    def leave(sock: socket.socket, path: str) -> None:
        if path.endswith("large"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger, 0))
            raise EOFError("left")

    with Device(before_data=leave) as device:
        with pushing(device.port, *files) as program:
            status, output, errors = result(program)
    assert (status, output) == (1, "")
    assert errors.startswith("not pushed: ")
    assert errors.count("\n") == 1
    assert set(device.files) == {f"/sdcard/{path.name}" for path in files[:-1]}


def test_a_device_that_never_reads_is_given_up(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(64 << 20)
    with Device(reads=False) as device:
        with pushing(device.port, tmp_path / "large", SILENCE="0.4") as program:
            status, output, errors = result(program)
    assert (status, output) == (1, "")
    assert errors == "not pushed: PeerGoneError('nothing has moved for 0.4 seconds')\n"


def test_ctrl_c_in_the_middle_of_a_file_resets(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(64 << 20)
    begun: list[int] = []

    def interrupt(sock: socket.socket, path: str) -> None:
        begun.append(1)
        if len(begun) == 3:
            program.send_signal(signal.SIGINT)  # of 64 MiB some are here, some in buffers, most of them in the file

    with Device(before_data=interrupt) as device:
        with pushing(device.port, tmp_path / "large") as program:
            status, output, errors = result(program)
    assert (status, output) == (1, "")
    assert "KeyboardInterrupt()" in errors
    assert device.ends == ["reset"]
    assert device.files == {}


def test_the_adb_server_may_refuse_or_not_be_there(files: list[Path]) -> None:
    with Device() as device:
        with pushing(device.port, *files, ANDROID_SERIAL="nobody") as program:
            assert result(program) == (1, "", "not pushed: BrokenResourceError(\"device 'nobody' not found\")\n")
    with pushing(free_port(), *files) as program:
        status, output, errors = result(program)
    assert (status, output) == (1, "")
    assert re.fullmatch(r"not pushed: ConnectionFailed\(.*refused.*\)\n", errors)


# --- the real thing ---------------------------------------------------------------------------------------------------


def test_the_real_client_takes_the_scripted_device_for_one(files: list[Path]) -> None:
    with Device() as device:
        command = [tool("adb"), "-P", str(device.port), "push", *map(str, files), "/sdcard/"]
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)
    assert device.files.keys() == {f"/sdcard/{path.name}" for path in files}
    assert all(device.files[f"/sdcard/{path.name}"].content == path.read_bytes() for path in files)
