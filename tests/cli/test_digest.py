"""``--digest`` and ``--resume``: what is checked, what is refused, and what an interruption costs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio import EndOfStream, to_thread
from support.cost import check_linear
from support.programs import LIMIT
from support.roket_command import (
    Ended,
    command,
    ended,
    environment,
    only,
    peer_of,
    received_all,
    received_from,
    receiving,
    roket,
    running,
)
from support.waiting import wait_until

from roket_trio._cli.console.command_status import CommandStatus
from roket_trio._cli.console.exit_codes import CommandError
from roket_trio._cli.local_files.file_names import checked_name
from roket_trio._cli.local_files.recv_destinations import Destination
from roket_trio._cli.transfers import receiving_with_digest, storing
from roket_trio._cli.transfers.digest_framing import MAGIC, DigestChannel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, flock and RST as Linux has them")

Capture = pytest.CaptureFixture[str]
CONTENT = random.Random(0).randbytes(3_000_001)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "place"
    path.mkdir()
    return path


# --- both ends ours ---------------------------------------------------------------------------------------------------


def test_a_file_is_confirmed_and_takes_the_senders_name_in_a_directory(
    capsys: Capture, source: Path, place: Path
) -> None:
    with receiving("--digest", place) as (program, port):
        sent = roket(capsys, "send", "--digest", source, f"127.0.0.1:{port}")
        received = ended(program)
    assert (sent.code, received.code) == (0, 0)
    assert sent.errors.endswith(f", by read-send: confirmed, SHA-256 {SHA}\n")
    assert received.last.endswith(f", by read-send: SHA-256 {SHA}, {place}/source is on the disk")
    assert only(place) == ["source"]
    assert (place / "source").read_bytes() == CONTENT


def test_json_tells_what_was_confirmed(capsys: Capture, source: Path, place: Path) -> None:
    with receiving("--digest", "--json", place / "file") as (program, port):
        told = json.loads(roket(capsys, "send", "--digest", "--json", source, f"127.0.0.1:{port}").output)
        theirs = json.loads(ended(program).output)
    assert (told["confirmed"], told["sha256"], told["bytes"], told["resumed_at"]) == (True, SHA, len(CONTENT), 0)
    assert (theirs["sha256"], theirs["file"]) == (SHA, str(place / "file"))


def test_standard_input_has_no_name_but_a_digest(place: Path) -> None:
    for target, codes in ((place, (1, 5)), (place / "file", (0, 0))):
        with receiving("--digest", target) as (receiver, port):
            sender = subprocess.run(
                command("send", "--digest", "-", f"127.0.0.1:{port}"),
                env=environment(),
                input=CONTENT,
                capture_output=True,
                timeout=LIMIT,
                check=False,
            )
            assert (sender.returncode, ended(receiver).code) == codes, sender.stderr
    assert (place / "file").read_bytes() == CONTENT


def test_a_directory(capsys: Capture, source: Path, place: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_bytes(CONTENT)
    with receiving("--digest", place) as (program, port):
        sent = roket(capsys, "send", "--digest", tree, f"127.0.0.1:{port}")
        assert (sent.code, ended(program).code) == (0, 0), sent.errors
    assert ": confirmed, SHA-256 " in sent.errors
    assert only(place) == ["tree"]
    assert (place / "tree" / "sub" / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("option", ["--digest", "--resume"])
def test_an_empty_file(capsys: Capture, option: str, place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with receiving(option, place) as (program, port):
        sent = roket(capsys, "send", option, tmp_path / "empty", f"127.0.0.1:{port}")
        assert (sent.code, ended(program).code) == (0, 0), sent.errors
    assert (only(place), (place / "empty").read_bytes()) == (["empty"], b"")


def test_an_empty_file_as_standard_input_can_be_resumed_and_a_generated_one_cannot(place: Path) -> None:
    for name, code in ((os.devnull, 2), ("/proc/self/status", 2), (str(place / "empty"), 0)):
        (place / "empty").touch()
        with receiving("--resume", place / "got") as (program, port), open(name, "rb") as source:
            with running("send", "--resume", "-", f"127.0.0.1:{port}", stdin=source) as sender:
                sent = ended(sender)
            if code:
                program.send_signal(signal.SIGINT)
            ended(program)
        assert sent.code == code, sent.errors
    assert (place / "got").read_bytes() == b""


def test_standard_output_is_checked_too(capsys: Capture, source: Path) -> None:
    with receiving("--digest", "-", stdout=subprocess.DEVNULL) as (program, port):
        assert roket(capsys, "send", "--digest", source, f"127.0.0.1:{port}").code == 0
        assert ended(program).last.endswith(f"SHA-256 {SHA}, standard output")


def test_a_limited_rate_is_kept(capsys: Capture, tmp_path: Path, place: Path) -> None:
    (tmp_path / "some").write_bytes(bytes(300_000))
    with receiving("--digest", place) as (program, port):
        began = time.monotonic()
        sent = roket(capsys, "send", "--digest", "--rate", "600000", tmp_path / "some", f"127.0.0.1:{port}")
        assert time.monotonic() - began > 0.4
        assert (sent.code, ended(program).code) == (0, 0)


def test_what_is_there_already_is_refused_and_the_sender_is_told(capsys: Capture, source: Path, place: Path) -> None:
    (place / "source").write_text("precious")
    with receiving("--digest", place) as (program, port):
        sent = roket(capsys, "send", "--digest", source, (where := f"127.0.0.1:{port}"))
        received = ended(program)
    why = f"{place}/source exists already; --force replaces it"
    assert received == (5, "", f"roket recv: {why}\n")
    assert sent == (1, "", f"roket send: {where} refused it: {why}\n")
    assert (place / "source").read_text() == "precious"
    assert only(place) == ["source"]


def test_a_disk_that_fills_is_told_to_the_sender_at_once(capsys: Capture, place: Path, tmp_path: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)  # nobody could wait for that
    with receiving("--digest", place, preexec_fn=small_files_only) as (program, port):
        sent = roket(capsys, "send", "--digest", tmp_path / "large", (where := f"127.0.0.1:{port}"))
        received = ended(program)
    why = f"writing {place}/large failed: File too large"
    assert received == (5, "", f"roket recv: {why}\n")
    assert sent.code == 1
    assert sent.errors.startswith(f"roket send: {where} has not taken it: {why}; {where} may lack ")
    assert only(place) == []


# --- a receiver that is not -------------------------------------------------------------------------------------------


def test_a_receiver_that_does_not_speak_it_is_not_waited_for(capsys: Capture, source: Path) -> None:
    def silent(sock: socket.socket) -> None:
        try:
            received_all(sock)
        except ConnectionResetError:
            pass

    def other(sock: socket.socket) -> None:
        sock.sendall(b"220 mail.example ESMTP\r\n")
        silent(sock)

    for talk in (silent, other):
        with peer_of(talk) as where:
            done = roket(capsys, "send", "--digest", "--connect-timeout", "0.3", source, where)
        assert done.code == 6
        assert done.errors.startswith(
            f"roket send: {where} does not speak the framing of --digest: give it at both ends"
        )


def replying(*replies: Any) -> Callable[[socket.socket], None]:
    """A receiver that says these lines after the offer, and then listens to the end."""

    def talk(sock: socket.socket) -> None:
        with sock.makefile("rwb") as file:
            offer = file.readline()
            assert offer.startswith(b"roket/1 {")
            assert json.loads(offer[8:]) == {"kind": "file", "name": "source", "size": len(CONTENT)}
            for reply in replies:
                file.write(json.dumps(reply).encode() + b"\n")
            file.flush()
            try:
                file.read()
            except ConnectionResetError:
                pass

    return talk


EMPTY = hashlib.sha256().hexdigest()


@pytest.mark.parametrize(
    ("replies", "code", "message"),
    [
        ([{"roket": 2}], 6, "does not speak the framing"),
        ([[]], 6, "does not speak the framing"),
        ([{"roket": 1}, {"have": -1, "sha256": EMPTY}], 6, "does not speak the framing"),
        ([{"roket": 1}, {"have": True, "sha256": EMPTY}], 6, "does not speak the framing"),
        ([{"roket": 1}, {"have": 0}], 6, "does not speak the framing"),
        ([{"roket": 1}, {"refused": "no\x1b[31m"}], 1, "refused it: no?[31m"),
        ([{"roket": 1}, {"refused": 7}], 1, "refused it: it does not say why"),
        ([{"roket": 1}, {"have": 0, "sha256": EMPTY}, {"failed": "full"}], 1, "has not taken it: full"),
        ([{"roket": 1}, {"have": 0, "sha256": EMPTY}, {"done": 1}], 1, "has not taken it: it does not say why"),
    ],
)
def test_what_a_receiver_may_answer(replies: list[Any], code: int, message: str, capsys: Capture, source: Path) -> None:
    with peer_of(replying(*replies)) as where:
        done = roket(capsys, "send", "--digest", source, where)
    assert done.code == code
    assert done.errors.startswith(f"roket send: {where} {message}")
    assert done.errors.count("\n") == 1


def test_a_receiver_that_leaves_before_it_confirms(capsys: Capture, source: Path) -> None:
    def talk(sock: socket.socket) -> None:
        with sock.makefile("rwb") as file:
            file.readline()
            for reply in ({"roket": 1}, {"have": 0, "sha256": EMPTY}):
                file.write(json.dumps(reply).encode() + b"\n")
            file.flush()
            assert len(file.read(8 + 8 + len(CONTENT))) > len(CONTENT)

    with peer_of(talk) as where:
        done = roket(capsys, "send", "--digest", source, where)
    assert done.code == 3
    assert "acknowledged" not in done.errors.split(";")[0]


# --- a sender that is not ---------------------------------------------------------------------------------------------


def sending(port: int, offer: Any, *then: bytes) -> list[bytes]:
    """A scripted sender: the offer, what it has to say after that, and the lines of the receiver."""
    with socket.create_connection(("127.0.0.1", port), LIMIT) as sock:
        sock.settimeout(LIMIT)
        first = offer if isinstance(offer, bytes) else b"roket/1 " + json.dumps(offer).encode() + b"\n"
        with sock.makefile("rb") as file:
            lines = []
            try:
                sock.sendall(first)
                if then:
                    lines += [file.readline(), file.readline()]
                    sock.sendall(b"".join(then))
                sock.shutdown(socket.SHUT_WR)
                lines += file.readlines()
            except TimeoutError:
                raise
            except OSError:  # reset, here or there
                lines.append(b"reset")
        return lines


def from_script(capsys: Capture, arguments: list[Any], offer: Any, *then: bytes) -> tuple[Ended, list[bytes]]:
    """What becomes of ``roket recv`` with a scripted sender, and what that heard."""
    lines: list[bytes] = []
    done = received_from(capsys, lambda port: lines.extend(sending(port, offer, *then)), *arguments)
    return done, lines


def number(value: int) -> bytes:
    return struct.pack("!Q", value)


def offered(size: int | None, name: str | None = "file", kind: str = "file") -> dict[str, Any]:
    return {"kind": kind, "name": name, "size": size}


def test_the_framing_is_what_is_documented(capsys: Capture, place: Path) -> None:
    data = b"some bytes, and more"
    pieces = number(10) + data[:10] + number(10) + data[10:] + number(0)
    offer = {**offered(len(data)), "future": [1]}
    done, lines = from_script(capsys, ["--digest", place], offer, number(0) + pieces + hashlib.sha256(data).digest())
    assert done.code == 0
    assert [json.loads(line) for line in lines] == [{"roket": 1}, {"have": 0, "sha256": EMPTY}, {"done": len(data)}]
    assert (place / "file").read_bytes() == data


@pytest.mark.parametrize(
    ("pieces", "size", "why"),
    [
        (number(4) + b"data" + number(0) + bytes(32), 4, "the SHA-256 differs"),
        (number(4) + b"data" + number(0) + hashlib.sha256(b"data").digest(), 5, "the SHA-256 differs"),
        (number(5), 4, "sends more than it announced"),
        (number(1 << 63), 4, "sends more than it announced"),
    ],
    ids=["wrong digest", "fewer bytes", "more bytes", "far more bytes"],
)
def test_what_is_not_what_was_sent_is_1_and_leaves_nothing(
    pieces: bytes, size: int, why: str, place: Path, capsys: Capture
) -> None:
    done, lines = from_script(capsys, ["--digest", place], offered(size), number(0) + pieces)
    assert done.code == 1
    assert why in done.errors
    assert why in json.loads(lines[-1])["failed"]
    assert only(place) == []


@pytest.mark.parametrize("length", [4, 8, 12, 18, 20, 30], ids=str)
def test_a_transfer_that_is_cut_anywhere_is_3_and_leaves_nothing(length: int, place: Path, capsys: Capture) -> None:
    whole = number(0) + number(4) + b"data" + number(0) + hashlib.sha256(b"data").digest()
    done, _ = from_script(capsys, ["--digest", place], offered(4), whole[:length])
    assert (done.code, done.errors.count("\n")) == (3, 1)
    assert done.errors.endswith(" ended the connection before the transfer was done\n")
    assert only(place) == []


@pytest.mark.parametrize(
    "first",
    [
        b"some raw bytes",
        b"roket/1 {}\n",
        b"roket/1 []\n",
        b"roket/1 {\n",
        b"roket/2 " + json.dumps(offered(1)).encode() + b"\n",
        b"roket/1 " + b"[" * 10_000 + b"\n",
        b"roket/1 " + b"x" * 20_000,
        b"roket/1 " + json.dumps(offered(1)).encode() + b"\nand more",
        offered(-1),
        offered(1 << 63),
        {**offered(1), "size": 1.5},
        {**offered(1), "size": True},
        {**offered(1), "name": 7},
        offered(1, kind="device"),
    ],
    ids=lambda first: str(first)[:24],
)
def test_a_sender_that_does_not_speak_it_is_6(first: Any, place: Path, capsys: Capture) -> None:
    done, _ = from_script(capsys, ["--digest", place], first)
    assert done.code == 6, done.errors
    assert done.errors.endswith(" does not speak the framing of --digest: give it at both ends\n")
    assert only(place) == []


TRICKS = ["../out", "/etc/passwd", "a/b", "..", ".", "", ".bashrc", "-rf", "a\\b", "a\nb", "a\0b", "\x1b[2J", "x" * 300]
TRICKS += ["file.part", "file.roket-part", "\udcff", "\ud800", "a\x7f", "a\x85", "a\x9b2J", "a\u2028b", "a\u2029b"]
TRICKS += [f"a{chr(number)}b" for number in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))]


@pytest.mark.parametrize("name", TRICKS, ids=ascii)
def test_names_that_are_tricks_are_refused(name: str) -> None:
    with pytest.raises(CommandError, match="refused the name"):
        checked_name(name)


EVERYDAY = [
    "Screenshot 2026-11-30 at 9.41.00\u202fAM.png",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.txt",  # Persian
    "\U0001f469\u200d\U0001f52c.jpg",  # an emoji of two
    "\u6771\u4eac\u3000\u99c5.txt",
    "100\u00a0km.txt",
    "caf\u00e9",
    "cafe\u0301",  # the same, taken apart, as macOS does
    "\u05d0\u200f(1).pdf",
    "\uf8ff",  # of private use
    "-".join("a b'c\"d$e*f?g<h>i|j:k"),
    "n" * 250,
]


@pytest.mark.parametrize("name", EVERYDAY, ids=ascii)
def test_everyday_names_are_taken(name: str) -> None:
    assert checked_name(name) == name


def test_an_everyday_name_arrives_as_it_is_and_is_shown(capsys: Capture, place: Path, tmp_path: Path) -> None:
    (tmp_path / EVERYDAY[0]).write_bytes(b"x")
    with receiving("--digest", place) as (program, port):
        sent = roket(capsys, "send", "--digest", tmp_path / EVERYDAY[0], f"127.0.0.1:{port}")
        done = ended(program)
    assert (sent.code, done.code) == (0, 0), done.errors
    assert done.last.endswith(f", {place}/{EVERYDAY[0]} is on the disk")
    assert only(place) == [EVERYDAY[0]]


def test_a_name_that_is_a_trick_is_refused_by_the_receiver(place: Path, capsys: Capture) -> None:
    inner = place / "in"
    inner.mkdir()
    done, lines = from_script(capsys, ["--digest", inner], offered(4, "../out"))
    assert (done.code, done.errors) == (1, "roket recv: refused the name that the sender gives: '../out'\n")
    assert json.loads(lines[1]) == {"refused": "refused the name that the sender gives: '../out'"}
    assert (only(inner), only(place)) == ([], ["in"])


def test_what_is_stored_is_done_though_the_sender_has_left(
    place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, gone = threading.Event(), threading.Event()
    commit = storing.commit

    async def commit_and_wait(destination: Destination, status: CommandStatus) -> None:
        await commit(destination, status)
        stored.set()
        assert await to_thread.run_sync(gone.wait, LIMIT)

    def send_and_leave(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(b"roket/1 " + json.dumps(offered(2)).encode() + b"\n")
            with sock.makefile("rb") as file:
                assert [file.readline(), file.readline()][1].startswith(b'{"have": 0, ')
            sock.sendall(number(0) + number(2) + b"hi" + number(0) + hashlib.sha256(b"hi").digest())
            assert stored.wait(LIMIT)
        gone.set()

    monkeypatch.setattr(receiving_with_digest, "commit", commit_and_wait)
    done = received_from(capsys, send_and_leave, "--digest", place)
    assert done.code == 0, done.errors
    assert done.last.endswith(f", {place}/file is on the disk; the sender left before it was told so")
    assert (place / "file").read_bytes() == b"hi"


@pytest.mark.parametrize("option", ["--digest", "--resume"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "directory"])
def test_a_senders_name_replaces_files_and_nothing_else(option: str, kind: str, place: Path, capsys: Capture) -> None:
    inner = place / "in"
    inner.mkdir()
    if kind == "fifo":
        os.mkfifo(inner / "file")
        reader = os.open(inner / "file", os.O_RDONLY | os.O_NONBLOCK)
    elif kind == "directory":
        (inner / "file").mkdir()
    else:
        (inner / "file").symlink_to("../victim")
    if kind == "link":
        (place / "victim").write_text("precious")
    before = os.lstat(inner / "file")
    pieces = number(0) + number(4) + b"evil" + number(0) + hashlib.sha256(b"evil").digest()
    done, lines = from_script(capsys, [option, "--force", inner], offered(4), pieces)
    assert (done.code, done.errors) == (5, f"roket recv: {inner}/file exists already, and is no regular file\n")
    assert "no regular file" in json.loads(lines[1])["refused"]
    assert os.path.samestat(before, os.lstat(inner / "file"))
    assert only(inner) == ["file"]
    if kind == "fifo":
        assert os.read(reader, 10) == b""
        os.close(reader)
    if kind == "link":
        assert (place / "victim").read_text() == "precious"
    else:
        assert only(place) == ["in"]


def test_a_name_that_was_given_here_is_what_counts(capsys: Capture, place: Path) -> None:
    nothing = number(0) + number(0) + hashlib.sha256().digest()
    assert from_script(capsys, ["--digest", place / "mine"], offered(0, "../out"), nothing)[0].code == 0
    assert only(place) == ["mine"]


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_what_is_interrupted_stays_as_part_and_is_gone_on_with(capsys: Capture, source: Path, place: Path) -> None:
    begun = number(0) + number(len(CONTENT)) + CONTENT[:1_000_000]
    done, _ = from_script(capsys, ["--resume", place], offered(len(CONTENT), "source"), begun)
    assert done.code == 3
    assert only(place) == ["source.part"]
    assert (place / "source.part").read_bytes() == CONTENT[:1_000_000]
    with receiving("--resume", place) as (program, port):
        sent = roket(capsys, "send", "--resume", source, f"127.0.0.1:{port}")
        done = ended(program)
    assert (sent.code, done.code) == (0, 0), sent.errors
    assert f"sent {len(CONTENT) - 1_000_000} bytes" in sent.errors
    assert sent.errors.endswith(f" (resumed at 1000000): confirmed, SHA-256 {SHA}\n")
    assert only(place) == ["source"]
    assert (place / "source").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "part", [b"not what the sender has", CONTENT + b"more", CONTENT[:-1] + b"x"], ids=["another", "longer", "last byte"]
)
def test_a_part_of_something_else_is_not_gone_on_with(part: bytes, capsys: Capture, source: Path, place: Path) -> None:
    (place / "source.part").write_bytes(part)
    with receiving("--resume", place) as (program, port):
        sent = roket(capsys, "send", "--digest", source, f"127.0.0.1:{port}")
        assert (sent.code, ended(program).code) == (0, 0)
    assert "resumed" not in sent.errors
    assert only(place) == ["source"]
    assert (place / "source").read_bytes() == CONTENT


def test_a_part_that_is_complete_only_has_to_be_confirmed(capsys: Capture, source: Path, place: Path) -> None:
    (place / "source.part").write_bytes(CONTENT)
    with receiving("--resume", place) as (program, port):
        sent = roket(capsys, "send", "--resume", source, f"127.0.0.1:{port}")
        assert (sent.code, ended(program).code) == (0, 0)
    assert "sent 0 bytes in " in sent.errors
    assert (place / "source").read_bytes() == CONTENT


def test_without_resume_nothing_stays_and_a_part_is_left_alone(capsys: Capture, source: Path, place: Path) -> None:
    (place / "source.part").write_bytes(b"somebody's")
    with receiving("--digest", place) as (program, port):
        assert roket(capsys, "send", "--digest", source, f"127.0.0.1:{port}").code == 0
        assert ended(program).code == 0
    assert only(place) == ["source", "source.part"]
    assert (place / "source.part").read_bytes() == b"somebody's"


def test_a_part_whose_digest_is_wrong_in_the_end_is_not_kept(capsys: Capture, place: Path) -> None:
    wrong = number(0) + number(4) + b"data" + number(0) + bytes(32)
    assert from_script(capsys, ["--resume", place], offered(4), wrong)[0].code == 1
    assert only(place) == []


def test_two_cannot_write_one_part(place: Path) -> None:
    with receiving("--resume", place / "file") as (first, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sock:
            sock.sendall(b"roket/1 " + json.dumps(offered(4)).encode() + b"\n")
            wait_until(lambda: only(place) == ["file.part"], "the part")
            wait_until(lambda: sock.recv(1000, socket.MSG_PEEK).count(b"\n") == 2, "both lines")
            with receiving("--resume", place / "file") as (second, other_port):
                lines = sending(other_port, offered(4))
                done = ended(second)
        assert ended(first).code == 3
    assert done == (5, "", f"roket recv: {place}/file.part is being written by another process\n")
    assert "is being written" in json.loads(lines[1])["refused"]
    assert only(place) == []  # an empty part is nothing


def test_a_part_that_is_a_link_is_not_followed(place: Path, capsys: Capture) -> None:
    (place / "file.part").symlink_to("victim")
    (place / "victim").write_text("precious")
    assert from_script(capsys, ["--resume", place / "file"], offered(4))[0].code == 5
    assert (place / "victim").read_text() == "precious"


@pytest.mark.parametrize("victim", ["recv", "send"])
def test_a_kill_in_the_middle_costs_what_was_under_way_and_no_more(
    victim: str, capsys: Capture, source: Path, place: Path
) -> None:
    def size() -> int:
        try:
            return (place / "source.part").stat().st_size
        except FileNotFoundError:
            return 0

    with receiving("--resume", place) as (receiver, port):
        with running("send", "--resume", "--rate", "4M", source, f"127.0.0.1:{port}") as sender:
            wait_until(lambda: size() > 500_000, "a part of it")
            (receiver if victim == "recv" else sender).kill()
            (receiver if victim == "recv" else sender).wait(LIMIT)
            survivor = ended(sender if victim == "recv" else receiver)
    assert survivor.code == 3, survivor.errors
    had = size()
    assert 500_000 < had < len(CONTENT)
    assert CONTENT.startswith((place / "source.part").read_bytes())
    with receiving("--resume", place) as (receiver, port):
        sent = roket(capsys, "send", "--resume", source, f"127.0.0.1:{port}")
        assert (sent.code, ended(receiver).code) == (0, 0), sent.errors
    assert f" (resumed at {had}): confirmed" in sent.errors
    assert (place / "source").read_bytes() == CONTENT
    assert only(place) == ["source"]


def test_ctrl_c_keeps_the_part_and_the_sender_learns_of_it(source: Path, place: Path) -> None:
    with receiving("--resume", place) as (receiver, port):
        with running("send", "--resume", "--rate", "4M", source, f"127.0.0.1:{port}") as sender:
            wait_until(
                lambda: (place / "source.part").exists() and (place / "source.part").stat().st_size, "a part of it"
            )
            receiver.send_signal(signal.SIGINT)
            received, sent = ended(receiver), ended(sender)
    assert received.code == 130
    assert re.fullmatch(r"roket recv: interrupted by SIGINT after \d+ bytes\n", received.errors)
    assert sent.code == 3
    assert only(place) == ["source.part"]


def test_random_interruptions_lose_nothing_and_corrupt_nothing() -> None:
    """Sixty of them; ROKET_INTERRUPTIONS=1000 for more, ROKET_SEED for the same ones again."""
    count = os.environ.get("ROKET_INTERRUPTIONS", "60")
    seed = os.environ.get("ROKET_SEED", str(random.randrange(1 << 32)))
    program = [sys.executable, "-W", "error", str(Path(__file__).parents[1] / "interruptions.py"), count, seed]
    done = subprocess.run(program, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert json.loads(done.stdout)["transfers"] == int(count)


class _ByteByByte:
    """The stream of a peer that sends a line in pieces of a byte."""

    def __init__(self, line: bytes) -> None:
        self._pieces = iter(line)

    async def receive(self, most: int) -> bytes:
        try:
            return bytes((next(self._pieces),))
        except StopIteration:
            raise EndOfStream from None


@dataclass
class _Connection:
    stream: Any
    peer: str = "peer"


def test_a_line_that_comes_byte_by_byte_is_searched_once() -> None:
    def receive(size: int) -> None:
        offer = b'{"kind": "file", "name": null, "size": %d}'
        line = MAGIC + (offer % 3).replace(b" ", b" " * (size // 6)) + b"\n"
        receiving = DigestChannel(_Connection(_ByteByByte(line))).receive_offer()  # type: ignore[arg-type]
        with pytest.raises(StopIteration) as done:
            receiving.send(None)
        assert done.value.value.size == 3

    check_linear(receive, 1 << 13)
    with pytest.raises(CommandError, match="does not speak"):
        receive(1 << 15)
