"""Names with other letters than English ones, where a terminal, a locale or a file has no letters but those."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.archives import END, archive_of, member
from support.programs import LIMIT
from support.roket_command import command, ended, environment, next_line, received_all, receiving, roket, running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names that are bytes, as Linux has them")

Capture = pytest.CaptureFixture[str]

# Not even Python's own remedies, PEP 538 and PEP 540.
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

NAME = "\u00c4pfel \u6771\u4eac \U0001f469\u200d\U0001f52c.txt"
BYTES = NAME.encode()


def in_directory(place: Path) -> list[bytes]:
    return sorted(os.listdir(os.fsencode(place)))


@pytest.mark.parametrize("option", ["--digest", "--resume"])
def test_a_name_arrives_in_an_ascii_locale(capsys: Capture, option: str, tmp_path: Path, place: Path) -> None:
    (tmp_path / NAME).write_bytes(b"x")
    with receiving(option, "--progress", "plain", place, env=environment(**ASCII)) as (program, port):
        sent = roket(capsys, "send", option, tmp_path / NAME, f"127.0.0.1:{port}")
        done = ended(program)
    assert (sent.code, done.code) == (0, 0), done.errors
    assert (done.errors.count("\n"), done.errors.isascii()) == (1, True)
    assert in_directory(place) == [BYTES]


def test_a_name_that_is_there_already_is_one_line(capsys: Capture, tmp_path: Path, place: Path) -> None:
    for directory in (tmp_path, place):
        (directory / NAME).write_bytes(b"x")
    with receiving("--digest", "--json", place, env=environment(**ASCII)) as (program, port):
        sent = roket(capsys, "send", "--digest", tmp_path / NAME, f"127.0.0.1:{port}")
        done = ended(program)
    assert (sent.code, done.code) == (1, 5)
    assert (done.errors.count("\n"), sent.errors.count("\n")) == (1, 1)
    assert "exists already" in done.errors
    assert json.loads(done.output)["exit"] == 5


def test_a_sender_in_an_ascii_locale_gives_the_same_name(tmp_path: Path, place: Path) -> None:
    (tmp_path / NAME).write_bytes(b"x")
    with receiving("--digest", place) as (program, port):
        with running("send", "--digest", tmp_path / NAME, f"127.0.0.1:{port}", env=environment(**ASCII)) as sender:
            sent = ended(sender)
        done = ended(program)
    assert (sent.code, done.code) == (0, 0), (sent.errors, done.errors)
    assert in_directory(place) == [BYTES]


@pytest.mark.parametrize("where", ["sender", "receiver", "both", "none"])
def test_a_directory_keeps_every_byte_of_its_names(where: str, tmp_path: Path, place: Path) -> None:
    """Those of its files may be no UTF-8."""
    top = os.fsencode(tmp_path / NAME)
    os.mkdir(top)
    for name in (BYTES, b"caf\xe9", b"\xff" * 200):
        with open(os.path.join(top, name), "wb"):
            pass
    os.symlink(b"caf\xe9", os.path.join(top, b"to \xe9"))
    here = environment(**(ASCII if where in ("sender", "both") else {}))
    there = environment(**(ASCII if where in ("receiver", "both") else {}))
    with receiving("--unpack", place, env=there) as (program, port):
        with running("send", tmp_path / NAME, f"127.0.0.1:{port}", env=here) as sender:
            sent = ended(sender)
        done = ended(program)
    assert (sent.code, done.code) == (0, 0), (sent.errors, done.errors)
    assert in_directory(place) == [BYTES]
    assert sorted(os.listdir(os.path.join(os.fsencode(place), BYTES))) == sorted(os.listdir(top))
    assert os.readlink(os.path.join(os.fsencode(place), BYTES, b"to \xe9")) == b"caf\xe9"


@pytest.mark.parametrize("locale", [{}, ASCII], ids=["usual", "ASCII"])
def test_a_name_that_is_no_utf_8_is_refused_in_one_line(locale: dict[str, str], tmp_path: Path, place: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    with open(path, "wb") as file:
        file.write(b"x")
    with receiving("--digest", place, env=environment(**locale)) as (program, port):
        arguments: list[str | bytes] = [*command("send", "--digest"), path, f"127.0.0.1:{port}"]
        sent = subprocess.run(arguments, env=environment(**locale), capture_output=True, timeout=LIMIT, check=False)
        done = ended(program)
    assert (sent.returncode, done.code) == (1, 1)
    assert done.errors == "roket recv: refused the name that the sender gives: 'caf\\udce9'\n"
    assert (sent.stderr.count(b"\n"), sent.stderr.isascii()) == (1, True)
    assert in_directory(place) == []


def test_an_archive_that_is_refused_is_shown_in_ascii(place: Path) -> None:
    with receiving("--unpack", place, env=environment(**ASCII)) as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            sender.sendall(archive_of(member(f"{NAME}/\u202ex")))
            with pytest.raises(ConnectionResetError):
                received_all(sender)
        done = ended(program)
    assert (done.code, done.errors.count("\n"), done.errors.isascii()) == (1, 1, True)
    assert in_directory(place) == []


def test_what_is_shown_cannot_move_the_cursor(capsys: Capture, tmp_path: Path) -> None:
    for name in ("a\x1b[2Jb", "a\x9b2Jb", "a\u202eb", "a\nb", "a\u2028b"):
        done = roket(capsys, "send", tmp_path / name, "127.0.0.1:1")
        assert done.code == 5
        assert (done.errors.count("\n"), done.errors.replace("\n", "").isprintable()) == (1, True), ascii(name)
    done = roket(capsys, "send", tmp_path / NAME, "127.0.0.1:1")
    assert NAME in done.errors


def test_a_list_of_names_is_utf_8_in_an_ascii_locale(place: Path) -> None:
    pytest.importorskip("h11")
    (place / NAME).write_bytes(b"x")
    with open(os.path.join(os.fsencode(place), b"caf\xe9"), "wb"):
        pass
    with running("serve", place, "--bind", "0", env=environment(**ASCII), stdout=subprocess.DEVNULL) as program:
        port = int(next_line(program).rstrip().rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), LIMIT) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            page = received_all(client).decode()
        program.terminate()
        ended(program)
    assert f">{NAME}<" in page
    assert ">caf\ufffd<" in page
    assert 'href="./caf%E9"' in page


def test_a_gnu_long_name_that_is_no_utf_8_is_unpacked(place: Path) -> None:
    info = member("d/" + os.fsdecode(b"\xff" * 150))
    with receiving("--unpack", place) as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            sender.sendall(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + END)
            sender.shutdown(socket.SHUT_WR)
            received_all(sender)
        assert ended(program).code == 0
    assert os.listdir(os.path.join(os.fsencode(place), b"d")) == [b"\xff" * 150]
