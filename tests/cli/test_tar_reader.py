"""The reader of tar archives: what other programs write, what nobody may write, and what either costs."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
import tracemalloc
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archives import END, archive_of, extended, header, member, pax
from support.programs import tool

from roket_trio._cli.console.exit_codes import CommandError
from roket_trio._cli.local_files.tar_reader import MalformedArchiveError, Member, TarReader


def members_of(archive: bytes) -> list[tuple[Member, bytes]]:
    """Everything in an archive that arrives in small pieces."""
    reader = TarReader(io.BytesIO(archive).read)
    return [(each, b"".join(reader.content())) for each in reader.members()]


def names(archive: bytes) -> list[bytes]:
    return [b"/".join(each.path) for each, _ in members_of(archive)]


LONG = "n" * 200

FORMATS = ["--format=gnu", "--format=oldgnu", "--format=pax", "--format=ustar", "--format=v7"]


@pytest.mark.parametrize("option", FORMATS)
def test_what_gnu_tar_writes_is_understood(option: str, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "file").write_bytes(b"x" * 1000)
    (top / "empty").touch()
    os.utime(top / "file", ns=(0, 1_234_567_890_123_456_789))
    (top / "link").symlink_to("sub/more")
    os.link(top / "file", top / "more")
    if option not in FORMATS[3:]:  # the old formats cannot hold a name like that
        (top / "sub" / LONG).write_bytes(b"y")
        (top / "sub" / "to").symlink_to(LONG)
        os.utime(top / "empty", (-86400, -86400))
    done = subprocess.run(
        [tool("tar"), "-c", option, "--sort=name", "-C", tmp_path, "top"], check=True, capture_output=True
    )
    found = {b"/".join(each.path).decode(): (each, content) for each, content in members_of(done.stdout)}
    assert found["top"][0].kind == found["top/sub"][0].kind == "directory"
    file, content = found["top/file"]
    assert (file.kind, content) == ("file", b"x" * 1000)
    assert file.mtime_ns == 1_234_567_890_123_456_789 if "pax" in option else 1_234_567_890_000_000_000
    assert (found["top/link"][0].kind, found["top/link"][0].target) == ("link", b"sub/more")
    assert (found["top/more"][0].kind, found["top/more"][0].target_path) == ("hard link", (b"top", b"file"))
    if option not in FORMATS[3:]:
        assert found[f"top/sub/{LONG}"][1] == b"y"
        assert found["top/sub/to"][0].target == LONG.encode()
        assert found["top/empty"][0].mtime_ns == -86400 * 10**9


@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_names_that_are_no_utf_8_come_as_they_are(format_: Literal[1, 2]) -> None:
    info = member(os.fsdecode(b"caf\xe9/" + b"\xff" * 150))
    archive = info.tobuf(format_, "utf-8", "surrogateescape") + END
    assert names(archive) == [b"caf\xe9/" + b"\xff" * 150]


def test_a_file_of_more_than_eight_gibibytes_has_its_size() -> None:
    info = member("large", size=1 << 40)
    for format_ in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        reader = TarReader(io.BytesIO(info.tobuf(format_)).read)
        assert next(reader.members()).size == 1 << 40


def test_what_git_and_others_add_is_passed_over() -> None:
    comment = pax([(b"comment", b"8cf2f20d9b7d9fe4")], tarfile.XGLTYPE)
    more = pax([(b"SCHILY.xattr.user.x", b"a=b\n\0"), (b"atime", b"1.5"), (b"mtime", b"-1.25")])
    ((found, _),) = members_of(comment + more + header("file") + END)
    assert (found.path, found.mtime_ns) == ((b"file",), -1_250_000_000)


def test_a_dot_at_the_front_is_the_top_itself() -> None:
    archive = archive_of(member("./", tarfile.DIRTYPE), member("./a"), member("b/./c//d"))
    assert names(archive) == [b"", b"a", b"b/c/d"]


@pytest.mark.parametrize(
    "archive",
    [
        pax([(b"path", b"a")]) * 2 + header() + END,
        pax([(b"path", b"a")]) + extended(tarfile.GNUTYPE_LONGNAME, b"b\0") + header() + END,
        pax([(b"path", b"a"), (b"path", b"b")]) + header() + END,
        pax([(b"size", b"1")], tarfile.XGLTYPE) + header() + END,
        pax([(b"path", b"a")], tarfile.XGLTYPE) + header() + END,
        pax([(b"size", b"-1")]) + header() + END,
        pax([(b"size", b"0x10")]) + header() + END,
        pax([(b"size", "\N{ARABIC-INDIC DIGIT ONE}".encode())]) + header() + END,
        pax([(b"mtime", b"nan")]) + header() + END,
        pax([(b"mtime", b"1e9")]) + header() + END,
        pax([(b"mtime", b"99999999999")]) + header() + END,
        extended(tarfile.XHDTYPE, b"5 a=\n6 b") + header() + END,
        extended(tarfile.XHDTYPE, b"99 a=\n") + header() + END,
        extended(tarfile.XHDTYPE, b"0 a=\n") + header() + END,
        extended(tarfile.XHDTYPE, b"-5 a=\n") + header() + END,
        extended(tarfile.XHDTYPE, b"5 abc") + header() + END,
        extended(tarfile.XHDTYPE, b"5 abc=d\n") + header() + END,
        pax([(b"path", b"a")]) + END,
        header("a", tarfile.SYMTYPE, 512) + bytes(512) + END,
        header("a") + END + header("b") + END,
        header("a") + bytes(512) + header("b") + END,
        header("a") + bytes((1 << 20) + 1024 + 512),
        header("a"),
        header("a", size=1) + END[:512],
        b"",
        b"x" * 511,
        header("a")[:148] + b"\xff" * 8 + header("a")[156:] + END,
    ],
)
def test_what_is_ambiguous_or_incomplete_is_no_archive(archive: bytes) -> None:
    with pytest.raises(MalformedArchiveError):
        members_of(archive)


def test_an_empty_archive_is_one() -> None:
    assert members_of(bytes(10240)) == []


@settings(deadline=None)
@given(st.integers(), st.data())
def test_whatever_arrives_is_read_or_refused(seed: int, data: st.DataObject) -> None:
    """Whole archives with some bytes changed. Only the two errors that it documents may come out."""
    whole = bytearray(
        pax([(b"path", b"a/b"), (b"mtime", b"1.5")])
        + header("a", size=5)
        + bytes(512)
        + extended(tarfile.GNUTYPE_LONGLINK, b"b\0")
        + header("l", tarfile.SYMTYPE)
        + header("h", tarfile.LNKTYPE)
        + END
    )
    chance = random.Random(seed)
    for _ in range(data.draw(st.integers(0, 6))):
        whole[chance.randrange(len(whole))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):  # so that a change is looked at, and not only the checksum of its header
        for start in range(0, len(whole), 512):
            block = whole[start : start + 512]
            if any(block):
                block[148:156] = b" " * 8
                whole[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    with suppress(MalformedArchiveError, CommandError):
        members_of(bytes(whole))


def steps(archive: bytes) -> int:
    """How many lines of Python it takes to read an archive."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        members_of(archive)
    except (MalformedArchiveError, CommandError):
        pass
    finally:
        sys.settrace(before)
    return count


GROWING = {
    "members": lambda count: header("a/b") * count + END,
    "records": lambda count: pax([(b"a", b"b")] * count) + header() + END,
    "extended headers": lambda count: pax([(b"path", b"a" * 100)]) * count + END,
    "members with extended headers": lambda count: (pax([(b"path", b"a" * 100)]) + header()) * count + END,
    "names": lambda count: pax([(b"path", b"a/" * count)]) + header() + END,
    "content": lambda count: archive_of(member("a", size=count << 10)),
    "padding": lambda count: header() + END + bytes(count << 10),
}


@pytest.mark.parametrize("make", GROWING.values(), ids=GROWING)
def test_the_time_grows_with_the_archive_and_not_faster(make: Any) -> None:
    small, large = steps(make(200)), steps(make(800))
    assert large <= 4.2 * small + 100


@pytest.mark.parametrize("make", GROWING.values(), ids=GROWING)
def test_the_memory_does_not_grow_with_the_archive(make: Any) -> None:
    file = io.BytesIO(make(4000))
    reader = TarReader(file.read)
    tracemalloc.start()
    try:
        for _ in reader.members():
            for _ in reader.content():
                pass
    except (MalformedArchiveError, CommandError):
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 3 << 20
