"""Directories between ``roket send`` and ``roket recv``, as tar archives: whole, cut, deep, and from strangers."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import threading
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from support.archives import END, archive_of, extended, header, member, pax
from support.programs import LIMIT, tool
from support.roket_command import (
    CONTENT,
    ended,
    environment,
    next_line,
    only,
    peer_of,
    received_all,
    received_from,
    receiving,
    roket,
)
from support.waiting import wait_until

from roket_trio._cli.local_files import directory_packer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, acknowledgements and RST as Linux has them")

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "file").write_bytes(CONTENT)
    (top / "sub" / "deep" / "empty").touch()
    (top / "sub" / "run").write_text("#!/bin/sh\n")
    (top / "sub" / "run").chmod(0o755)
    (top / "link").symlink_to("sub/run")
    return top


def listed(top: Path) -> dict[str, object]:
    """Everything in it: what it is, and what is in it."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = (path.stat().st_mode, path.read_bytes()) if path.is_file() else "directory"
    return found


def test_a_directory_goes_as_tar_and_comes_out_as_it_was(capsys: Capture, tree: Path, place: Path) -> None:
    with receiving("--unpack", place / "new") as (program, port):
        assert roket(capsys, "send", tree, f"127.0.0.1:{port}").code == 0
        done = ended(program)
    assert done.code == 0, done.errors
    assert done.last.endswith(f": {place}/new/tree is on the disk")
    assert only(place / "new") == ["tree"]
    assert listed(place / "new" / "tree") == listed(tree)


def test_a_link_to_a_directory_is_sent_as_the_directory(
    capsys: Capture, tree: Path, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "to").symlink_to(tree)
    with receiving("--unpack", place) as (program, port):
        assert roket(capsys, "send", tmp_path / "to", f"127.0.0.1:{port}").code == 0
        assert ended(program).code == 0
    assert listed(place / "to") == listed(tree)


def test_tar_is_the_other_end_of_a_directory(capsys: Capture, tree: Path, place: Path) -> None:
    def unpack(sock: socket.socket) -> None:
        sock.settimeout(None)
        subprocess.run([tool("tar"), "-x", "-C", place], stdin=sock.fileno(), check=True, timeout=LIMIT)

    with peer_of(unpack) as where:
        assert roket(capsys, "send", tree, where).code == 0
    assert listed(place / "tree") == listed(tree)
    with receiving("--unpack", place / "again") as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            command: list[str | Path] = [tool("tar"), "-c", "-C", tree.parent, tree.name]
            subprocess.run(command, stdout=sender.fileno(), check=True, timeout=LIMIT)
        assert ended(program).code == 0
    assert listed(place / "again" / "tree") == listed(tree)


def test_a_directory_is_replaced_only_by_force_and_as_a_whole(capsys: Capture, tree: Path, place: Path) -> None:
    (place / "tree").mkdir()
    (place / "tree" / "old").touch()
    (place / "other").touch()
    for force, code, names in ((False, 5, ["old"]), (True, 0, only(tree))):
        with receiving("--unpack", place, *(["--force"] if force else [])) as (program, port):
            sent = roket(capsys, "send", tree, f"127.0.0.1:{port}")
            done = ended(program)
        assert done.code == code, done.errors
        assert sent.code == 0 or (code and sent.code == 3)  # it may hear the reset, or have ended before
        assert only(place / "tree") == names
        assert only(place) == ["other", "tree"]


def unpacked(capsys: Capture, archive: bytes, target: Path) -> tuple[int, str]:
    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            with contextlib.suppress(OSError):  # what is refused is reset at once, before its end has come or after
                sender.sendall(archive)
                sender.shutdown(socket.SHUT_WR)
                received_all(sender)

    done = received_from(capsys, send, "--unpack", target)
    return done.code, done.last


@pytest.mark.parametrize(
    "archive",
    [
        archive_of(member("../out")),
        archive_of(member("a", tarfile.SYMTYPE, "/etc"), member("a/passwd")),
        archive_of(member("a", tarfile.SYMTYPE, "../../secret")),
        archive_of(member("a", tarfile.LNKTYPE, "../secret")),
        archive_of(member("a", tarfile.CHRTYPE)),
        archive_of(member(".bashrc")),
        archive_of(member("b", tarfile.DIRTYPE), member("a", tarfile.SYMTYPE, "b"), member("a/x")),
        archive_of(member("b"), member("a", tarfile.SYMTYPE, "b"), member("a", size=10)),
        archive_of(member("d/e/l", tarfile.SYMTYPE, "../../x"), member("h", tarfile.LNKTYPE, "d/e/l")),
        archive_of(member("a", tarfile.LNKTYPE, "nothing")),
        archive_of(member("a\0b" + "c" * 100)),
        archive_of(member("a"), member("a/b")),
        archive_of(member("a"), member("a")),
        archive_of(member("d", tarfile.DIRTYPE), member("l", tarfile.LNKTYPE, "d")),
        archive_of(member("a", tarfile.SYMTYPE, "b"), member("a", tarfile.DIRTYPE)),
        archive_of(member("/etc/passwd")),
        archive_of(member("a", tarfile.FIFOTYPE)),
        archive_of(member("a", tarfile.SYMTYPE, "b/../../secret")),
        archive_of(member("d/a\u202ed")),
        archive_of(member("d/" + "n" * 256)),
        archive_of(member("/".join("d" * 3000))),
        archive_of(member("a", tarfile.GNUTYPE_SPARSE)),
        pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]) + header() + END,
        header("a", b"Z") + END,
    ],
    ids=[
        "dot-dot",
        "through a link",
        "a link out",
        "a hard link out",
        "a device",
        "a hidden name",
        "through a link of its own",
        "into a link of its own",
        "a link that is moved to where it leads out",
        "a hard link to nothing",
        "a NUL",
        "below a file",
        "one name twice",
        "a hard link to a directory",
        "a directory over a link",
        "an absolute name",
        "a FIFO",
        "a link that comes out behind another name",
        "a name that turns the text",
        "a name too long",
        "too deep",
        "a sparse file",
        "a sparse file of pax",
        "an unknown kind",
    ],
)
def test_an_archive_that_leads_out_is_refused_and_leaves_nothing(capsys: Capture, archive: bytes, place: Path) -> None:
    (place / "secret").write_text("secret")
    (place / "in").mkdir()
    code, line = unpacked(capsys, archive, place / "in")
    assert code == 1, line
    assert line.startswith("roket recv: refused ")
    assert only(place / "in") == []
    assert only(place) == ["in", "secret"]


@pytest.mark.parametrize(
    "length", [512 * 3, 512 * 4, 700, 0], ids=["at a header", "between two", "in a member", "at 0"]
)
def test_an_archive_that_was_cut_is_never_taken_for_whole(capsys: Capture, length: int, place: Path) -> None:
    archive = archive_of(member("a", size=1000), member("b", size=1000))
    assert unpacked(capsys, archive, place / "whole")[0] == 0
    code, line = unpacked(capsys, archive[:length], place / "new")
    assert code == 3, line
    assert line.startswith("roket recv: what arrived is no complete tar archive: ")
    assert only(place) == ["whole"]


def test_an_archive_with_a_wrong_header_is_never_taken_for_whole(capsys: Capture, place: Path) -> None:
    archive = bytearray(archive_of(member("a", size=1000), member("b", size=1000)))
    archive[3 * 512] ^= 1
    code, line = unpacked(capsys, bytes(archive), place / "new")
    assert code == 3, line
    assert line.startswith("roket recv: what arrived is no complete tar archive: ")
    assert only(place) == []


def test_a_header_of_an_archive_that_would_fill_the_memory_is_not_read(capsys: Capture, place: Path) -> None:
    code, line = unpacked(capsys, header("x", tarfile.XHDTYPE, 1 << 30) + bytes(5000), place / "new")
    assert code == 3, line
    assert line == "roket recv: what arrived is no complete tar archive: it has a header of 1073741824 bytes"
    assert only(place) == []


def test_a_directory_that_cannot_be_read_ends_in_a_reset(
    capsys: Capture, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, *, dir_fd: int) -> str:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(os, "readlink", refuse)

    def talk(sock: socket.socket) -> None:
        with pytest.raises(ConnectionResetError):
            received_all(sock)

    with peer_of(talk) as where:
        done = roket(capsys, "send", tree, where)
    assert done.code == 5
    assert done.errors.startswith(f"roket send: reading {tree}/link failed: Permission denied")


@pytest.mark.parametrize("failure", [PermissionError(13, "Permission denied"), MemoryError("no more")])
def test_a_directory_that_cannot_be_read_is_not_complete_for_a_moment(
    capsys: Capture, tree: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """The pipe from the thread that reads the directory must not end before the thread has said that it failed."""

    class SlowlyLeft(FileIO):
        def __exit__(self, *exc_info: Any) -> None:
            super().__exit__(*exc_info)
            assert has_seen_the_end.wait(LIMIT)

    def refuse(name: str, *, dir_fd: int) -> str:
        raise failure

    def talk(sock: socket.socket) -> None:
        try:
            with pytest.raises(ConnectionResetError):
                received_all(sock)
        finally:
            has_seen_the_end.set()

    has_seen_the_end = threading.Event()
    monkeypatch.setattr(os, "readlink", refuse)
    monkeypatch.setattr(directory_packer, "open", lambda fd, mode, buffering: SlowlyLeft(fd, mode), raising=False)
    with peer_of(talk) as where:
        if isinstance(failure, OSError):
            assert roket(capsys, "send", tree, where).code == 5
        else:
            with pytest.raises(MemoryError):
                roket(capsys, "send", tree, where)


# --- what only a program of its own makes -----------------------------------------------------------------------------

DEEP = 1200


def make_deep(top: Path, depth: int, name: str) -> None:
    """A directory in a directory in a directory..., with a file in the last one; the paths have no bound."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here))
    os.close(here)


def depth_of(top: Path) -> int:
    """How deep the file is."""
    here, depth = os.open(top, os.O_RDONLY), -1
    try:
        while (names := os.listdir(here)) != ["file"]:
            below = os.open(names[0], os.O_RDONLY, dir_fd=here)
            os.close(here)
            here, depth = below, depth + 1
    finally:
        os.close(here)
    return depth


@pytest.mark.parametrize(
    ("option", "name"), [("--unpack", "d"), ("--digest", "d" * 200)], ids=["short names", "longer than any path"]
)
def test_a_deep_directory_arrives(capsys: Capture, tmp_path: Path, place: Path, option: str, name: str) -> None:
    make_deep(tmp_path / "deep", DEEP, name)
    with receiving(option, place) as (program, port):
        send = ["send", *(["--digest"] if option == "--digest" else [])]
        sent = roket(capsys, *send, tmp_path / "deep", f"127.0.0.1:{port}")
        done = ended(program)
    try:
        assert (sent.code, done.code) == (0, 0), (sent.errors, done.errors)
        assert only(place) == ["deep"]
        assert depth_of(place) == DEEP
    finally:  # pytest's own removal recurses
        subprocess.run(["rm", "-rf", tmp_path / "deep", place / "deep"], check=True)


def test_nothing_is_left_of_a_deep_directory_that_was_cut(capsys: Capture, place: Path) -> None:
    archive = archive_of(*(member("/".join("d" * depth), tarfile.DIRTYPE) for depth in range(1, DEEP)), member("../x"))
    code, line = unpacked(capsys, archive, place / "new")
    assert (code, line) == (1, "roket recv: refused to unpack: '../x' leads out of a directory")
    assert only(place) == []


REFUSED_AT_ONCE = {
    "a member": (archive_of(member("../x"))[:512], 1),
    "a header": (b"x" * 512, 3),
    "a size": (header("x", tarfile.XHDTYPE, 1 << 32), 3),
    "the end": (header() + END, 3),
}


@pytest.mark.parametrize(("first", "code"), REFUSED_AT_ONCE.values(), ids=REFUSED_AT_ONCE)
@pytest.mark.parametrize("is_digest", [False, True], ids=["raw", "digest"])
def test_a_refused_archive_is_not_read_to_its_end(is_digest: bool, first: bytes, code: int, place: Path) -> None:
    with receiving("--digest" if is_digest else "--unpack", place) as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            piece = bytes(1 << 20)
            if is_digest:
                sender.sendall(b'roket/1 {"kind": "tar", "name": "x", "size": null}\n')
                wait_until(lambda: sender.recv(1000, socket.MSG_PEEK).count(b"\n") == 2, "both lines")
                sender.sendall(bytes(8) + struct.pack("!Q", len(first)))
                piece = struct.pack("!Q", len(piece)) + piece
            sender.sendall(first)
            sent = 0
            with pytest.raises(OSError, match=r"reset|Broken pipe") as failed:
                while sent < 1 << 30:
                    sender.sendall(piece)
                    sent += len(piece)
        done = ended(program)
    assert failed.value.errno in (errno.ECONNRESET, errno.EPIPE)
    assert sent < 256 << 20  # what fits into the buffers of both kernels
    assert (done.code, done.errors.count("\n")) == (code, 1), done.errors
    assert only(place) == []


def test_a_sender_learns_why_its_archive_was_refused(place: Path, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree" / "pipe")
    with receiving("--digest", place) as (program, port):
        sent = roket(capsys, "send", "--digest", tmp_path / "tree", (where := f"127.0.0.1:{port}"))
        done = ended(program)
    why = "refused to unpack: 'tree/pipe' is a FIFO"
    assert done == (1, "", f"roket recv: {why}\n")
    assert sent.code == 1
    assert sent.errors.startswith(f"roket send: {where} has not taken it: {why}")
    assert only(place) == []


def hostile() -> dict[str, bytes]:
    """Archives of 6 KB to 3 MB, each of which once cost far more than itself."""
    many = range(4000)
    return {
        "long names in a row": header("x", tarfile.GNUTYPE_LONGNAME) * 400 + END,
        "pax headers in a row": header("x", tarfile.XHDTYPE) * 400 + END,
        "global headers in a row": pax([(b"comment", b"x")], tarfile.XGLTYPE) * 400 + END,
        "records that every member inherits": pax([(b"key%d" % number, b"") for number in range(900)], tarfile.XGLTYPE)
        + header("a") * 4000
        + END,
        "a million records": pax([(b"a", b"")] * 200_000) + header() + END,
        "a sparse map": pax([(b"GNU.sparse.major", b"0"), *((b"GNU.sparse.offset", b"%d" % number) for number in many)])
        + header()
        + END,
        "a name of a megabyte": pax([(b"path", b"a/" * 520_000)]) + header() + END,
        "a long name of a megabyte": extended(tarfile.GNUTYPE_LONGNAME, b"/" * (1 << 20)) + header() + END,
        "a file of eight exabytes": pax([(b"size", b"9223372036854775807")]) + header() + END,
        "a number of a million digits": pax([(b"size", b"9" * 1_000_000)]) + header() + END,
        "a time of a million digits": pax([(b"mtime", b"9" * 1_000_000)]) + header() + END,
        "a link of a megabyte": pax([(b"linkpath", b"a/" * 500_000)]) + header("a", tarfile.SYMTYPE) + END,
    }


# How much one run of the command takes, beside what is received.
MEASURED_COMMAND = """
import resource, sys
from roket_trio._cli import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def measured(archive: bytes, place: Path) -> tuple[int, str, int]:
    """The exit code of ``recv --unpack``, the last line, and the most memory that it took (KiB)."""
    command = [sys.executable, "-W", "error", "-c", MEASURED_COMMAND, "recv", "--unpack", "0", place]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    with subprocess.Popen(command, **options) as program:  # type: ignore[call-overload]
        port = int(next_line(program).rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            with contextlib.suppress(OSError):  # refused: ECONNRESET, EPIPE, or ENOTCONN from shutdown(2)
                sender.sendall(archive)
                sender.shutdown(socket.SHUT_WR)
                received_all(sender)
        done = ended(program)
    return done.code, done.errors, int(done.output)


def test_no_archive_takes_memory_or_leaves_anything(place: Path) -> None:
    usual = measured(archive_of(member("a", size=3_000_000)), place / "usual")
    assert usual[0] == 0, usual
    for name, archive in hostile().items():
        code, errors, memory = measured(archive, place / "new")
        assert (code in (1, 3), errors.count("\n")) == (True, 1), (name, errors)
        assert memory < usual[2] + (24 << 10), (name, memory, usual)
        assert only(place) == ["usual"], name


def test_the_modes_and_times_of_an_archive_are_kept_as_far_as_they_are_harmless(capsys: Capture, place: Path) -> None:
    members = [
        member("d", tarfile.DIRTYPE),
        member("d/private", size=10),
        member("d/set", size=10),
        member("d/none", size=10),
        member("closed", tarfile.DIRTYPE),
        member("closed/in", size=1),
        member("later/in"),
        member("later", tarfile.DIRTYPE),
    ]
    for each, mode in zip(members, (0o750, 0o600, 0o7777, 0, 0, 0o644, 0o644, 0o700), strict=True):
        each.mode, each.mtime = mode, 1_000_000_000
    umask = os.umask(0o027)
    try:
        code, line = unpacked(capsys, archive_of(*members), place / "new")
    finally:
        os.umask(umask)
    assert code == 0, line
    found = {each.name: os.stat(place / "new" / each.name) for each in members}
    assert {name: stat.S_IMODE(status.st_mode) for name, status in found.items()} == {
        "d": 0o750,
        "d/private": 0o600,
        "d/set": 0o750,
        "d/none": 0o600,
        "closed": 0o700,
        "closed/in": 0o640,
        "later": 0o700,
        "later/in": 0o640,
    }
    assert {status.st_mtime for status in found.values()} == {1_000_000_000}
