"""``roket recv`` into directories that other users can write to: their links, their parts, their FIFOs."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.archives import archive_of, member
from support.programs import LIMIT
from support.roket_command import ended, only, received_all, received_from, receiving, roket
from support.users import STRANGE_GROUP, shared, somebody

__all__ = ["shared"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="users, links and /proc as Linux has them")

Capture = pytest.CaptureFixture[str]

DATA = b"some bytes"
SHA = hashlib.sha256(DATA)


def raw(data: bytes) -> Callable[[int], None]:
    """A sender of these bytes, which does not mind a reset."""

    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                received_all(sock)
            except TimeoutError:
                raise
            except OSError:  # ECONNRESET, EPIPE, or ENOTCONN from shutdown(2)
                pass

    return send


def framed(port: int) -> None:
    """A sender of ``DATA`` under the name ``name``, with the framing of ``--digest``."""
    with socket.create_connection(("127.0.0.1", port), LIMIT) as sock, sock.makefile("rb") as lines:
        sock.sendall(b"roket/1 " + json.dumps({"kind": "file", "name": "name", "size": len(DATA)}).encode() + b"\n")
        lines.readline()
        answer = json.loads(lines.readline())
        if "have" in answer:
            start = answer["have"] if answer["sha256"] == hashlib.sha256(DATA[: answer["have"]]).hexdigest() else 0
            rest = DATA[start:]
            pieces = struct.pack("!QQ", start, len(rest)) + rest + bytes(8 if rest else 0)
            sock.sendall(pieces + SHA.digest())
        lines.read()


WAYS: dict[str, tuple[list[str], Callable[[int], None]]] = {
    "raw": (["--force"], raw(DATA)),
    "digest": (["--force", "--digest"], framed),
    "resume": (["--force", "--resume"], framed),
}
every_way = pytest.mark.parametrize(("options", "send"), WAYS.values(), ids=WAYS)


@every_way
@pytest.mark.parametrize("is_there", [True, False], ids=["to a file", "to nothing"])
def test_another_user_s_link_is_not_followed(
    capsys: Capture, options: list[str], send: Callable[[int], None], is_there: bool, shared: Path
) -> None:
    (shared / "private").mkdir(mode=0o700)
    if is_there:
        (shared / "private" / "victim").write_bytes(b"precious")
    with somebody():
        (shared / "name").symlink_to(shared / "private" / "victim")
    if options == ["--force"]:
        done = roket(capsys, "recv", *options, "0", shared / "name")
    else:
        done = received_from(capsys, send, *options, shared / "name")
    why = "another user's link in a directory that everybody can write to"
    assert done == (5, "", f"roket recv: opening {shared}/name failed: {why}\n")
    assert only(shared / "private") == (["victim"] if is_there else [])
    assert not is_there or (shared / "private" / "victim").read_bytes() == b"precious"


@every_way
def test_another_user_s_file_is_not_replaced(
    capsys: Capture, options: list[str], send: Callable[[int], None], shared: Path
) -> None:
    with somebody():
        (shared / "name").write_bytes(b"theirs")
    if options == ["--force"]:
        done = roket(capsys, "recv", *options, "0", shared / "name")
    else:
        done = received_from(capsys, send, *options, shared / "name")
    assert (done.code, done.errors.count("\n")) == (5, 1)
    assert "another user's file in a directory that everybody can write to" in done.errors
    assert (only(shared), (shared / "name").read_bytes()) == (["name"], b"theirs")


@pytest.mark.parametrize("kind", ["of theirs", "with another name", "a FIFO", "a link"])
def test_a_part_that_another_user_has_a_hand_in_is_not_gone_on_with(capsys: Capture, kind: str, shared: Path) -> None:
    (shared / "private").mkdir(mode=0o700)
    (shared / "private" / "victim").write_bytes(DATA[:4])
    part = shared / "name.part"
    if kind == "with another name":
        os.link(shared / "private" / "victim", part)
    else:
        with somebody():
            if kind == "of theirs":
                part.write_bytes(DATA[:4])
            elif kind == "a FIFO":
                os.mkfifo(part)
            else:
                part.symlink_to(shared / "private" / "victim")
    done = received_from(capsys, framed, "--resume", shared)
    assert (done.code, done.errors.count("\n")) == (5, 1), done.errors
    assert (shared / "private" / "victim").read_bytes() == DATA[:4]
    assert only(shared) == ["name.part", "private"]
    if kind == "of theirs":
        assert part.read_bytes() == DATA[:4]
        assert done.errors == f"roket recv: {shared}/name.part is another user's\n"


def test_who_could_write_to_a_part_cannot_change_what_was_checked(capsys: Capture, shared: Path) -> None:
    part = shared / "name.part"
    part.write_bytes(DATA[:4])
    part.chmod(0o666)
    with somebody():
        fd = os.open(part, os.O_WRONLY)
    try:
        done = received_from(capsys, framed, "--resume", shared)
        assert done.code == 0, done.errors
        os.pwrite(fd, b"evil", 0)
    finally:
        os.close(fd)
    assert (only(shared), (shared / "name").read_bytes()) == (["name"], DATA)


def test_what_is_resumed_takes_over_what_it_replaces(capsys: Capture, shared: Path) -> None:
    (shared / "in").mkdir()
    name, part = shared / "in" / "name", shared / "in" / "name.part"
    name.write_bytes(b"old")
    os.chown(name, 65530, STRANGE_GROUP)
    name.chmod(0o640)
    part.write_bytes(DATA[:4])
    done = received_from(capsys, framed, "--resume", "--force", name)
    assert done.code == 0, done.errors
    assert "(resumed at 4)" in done.errors
    status = name.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65530, STRANGE_GROUP, 0o640)
    assert name.read_bytes() == DATA


def test_a_part_of_a_private_file_is_private(place: Path) -> None:
    (place / "name").write_bytes(b"old")
    (place / "name").chmod(0o600)
    with receiving("--resume", "--force", place / "name") as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sock, sock.makefile("rb") as lines:
            sock.sendall(b'roket/1 {"kind": "file", "name": "name", "size": 10}\n')
            lines.readline()
            assert b"have" in lines.readline()
            sock.sendall(struct.pack("!QQ", 0, 10) + b"half")
            sock.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionResetError):
                lines.read()
        assert ended(program).code == 3
    assert stat.S_IMODE((place / "name.part").stat().st_mode) == 0o600


def test_another_user_s_fifo_gets_nothing(capsys: Capture, shared: Path) -> None:
    with somebody():
        os.mkfifo(shared / "name", 0o666)
    done = roket(capsys, "recv", "0", shared / "name")  # nobody reads: it does not wait
    assert (done.code, done.errors) == (5, f"roket recv: opening {shared}/name failed: No such device or address\n")
    reader = os.open(shared / "name", os.O_RDONLY | os.O_NONBLOCK)
    try:
        done = roket(capsys, "recv", "0", shared / "name")
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)
    assert done.code == 5
    assert "another user's file in a directory that everybody can write to" in done.errors


def test_another_user_s_link_is_no_directory_to_unpack_in(capsys: Capture, shared: Path) -> None:
    (shared / "private").mkdir(mode=0o700)
    with somebody():
        (shared / "name").symlink_to("private")
        (shared / "no").symlink_to("private/new")
    for name in ("name", "name/", "no"):
        done = roket(capsys, "recv", "--unpack", "0", f"{shared}/{name}")
        assert (done.code, done.errors.count("\n")) == (5, 1)
        assert "another user's link" in done.errors
    assert only(shared / "private") == []


def test_what_is_unpacked_for_somebody_is_readable_as_his_umask_says(capsys: Capture, shared: Path) -> None:
    (shared / "in").mkdir()
    (shared / "in").chmod(0o777)
    with somebody():
        before = os.umask(0o077)
        try:
            done = received_from(capsys, raw(archive_of(member("d", b"5"), member("d/f"))), "--unpack", shared / "in")
        finally:
            os.umask(before)
    assert done.code == 0, done.errors
    assert stat.S_IMODE((shared / "in" / "d" / "f").stat().st_mode) == 0o600
    assert stat.S_IMODE((shared / "in" / "d").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("option", ["--force", "--digest"], ids=["raw", "digest"])
def test_standard_output_by_any_name_goes_on_where_it_is(option: str, name: str, place: Path) -> None:
    with (place / "log").open("ab") as log:
        log.write(b"before\n")
        log.flush()
        with receiving(option, "--json", name, stdout=log) as (program, port):
            (framed if option == "--digest" else raw(DATA))(port)
            done = ended(program)
    assert done.code == 0, done.errors
    assert json.loads(done.last)["bytes"] == len(DATA)  # standard output takes the data
    assert (place / "log").read_bytes() == b"before\n" + DATA
    assert only(place) == ["log"]
