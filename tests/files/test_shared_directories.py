"""Writing where others can write too: whose links are followed, whose files are written, who can read the result."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from support.users import STRANGE_GROUP, shared, somebody

from roket_trio import FileWriteStream

__all__ = ["shared"]

HOW = {
    "truncated": lambda path: FileWriteStream.from_path(path),
    "appended": lambda path: FileWriteStream.from_path(path, append=True),
    "replaced": lambda path: FileWriteStream.from_path(path, atomic=True),
}
every_way = pytest.mark.parametrize("how", HOW.values(), ids=HOW)

How = Callable[[object], object]


async def write(how: How, path: Path, data: bytes = b"new") -> None:
    async with await how(path) as stream:  # type: ignore[misc]
        await stream.send(data)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- links ------------------------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("kind", ["to a file", "to nothing", "behind our own link", "relative"])
async def test_another_user_s_link_is_not_followed(how: How, kind: str, shared: Path) -> None:
    (shared / "private").mkdir(mode=0o700)
    victim = shared / "private" / "victim"
    if kind != "to nothing":
        victim.write_bytes(b"precious")
    with somebody():
        (shared / "name").symlink_to("private/victim" if kind == "relative" else victim)
    path = shared / "name"
    if kind == "behind our own link":
        path = shared / "private" / "ours"
        path.symlink_to(shared / "name")
    with pytest.raises(PermissionError, match="another user's link in a directory that everybody can write to"):
        await write(how, path)
    assert [each.name for each in victim.parent.iterdir() if not each.is_symlink()] == (
        [] if kind == "to nothing" else ["victim"]
    )
    assert kind == "to nothing" or victim.read_bytes() == b"precious"


@every_way
async def test_our_own_links_and_those_of_the_directory_s_owner_are_followed(how: How, shared: Path) -> None:
    with somebody():
        (shared / "theirs").mkdir(mode=0o755)
        (shared / "theirs" / "link").symlink_to(shared / "theirs" / "target")  # nobody else could have put it there
        (shared / "theirs" / "target").write_bytes(b"old")
        (shared / "own").symlink_to(shared / "theirs" / "link")
        await write(how, shared / "own", b"one")
        (shared / "own").unlink()
    await write(how, shared / "theirs" / "link", b"two")
    assert (shared / "theirs" / "target").read_bytes().endswith(b"two")
    assert (shared / "theirs" / "link").is_symlink()
    (shared / "root's").symlink_to(shared / "theirs" / "target")
    with somebody():
        await write(how, shared / "root's", b"three")
    assert (shared / "theirs" / "target").read_bytes().endswith(b"three")


@every_way
async def test_links_without_an_end_are_an_error(how: How, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        await write(how, tmp_path / "a")


# --- files ------------------------------------------------------------------------------------------------------------


@every_way
async def test_another_user_s_file_is_not_written_to(how: How, shared: Path) -> None:
    with somebody():
        (shared / "name").write_bytes(b"theirs")
        (shared / "name").chmod(0o666)
    with pytest.raises(PermissionError, match="another user's file in a directory that everybody can write to"):
        await write(how, shared / "name")
    assert (shared / "name").read_bytes() == b"theirs"
    assert [path.name for path in shared.iterdir()] == ["name"]


async def test_another_user_s_fifo_gets_nothing(shared: Path) -> None:
    with somebody():
        os.mkfifo(shared / "name", 0o666)
    reader = os.open(shared / "name", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(PermissionError, match="another user's file"):
            await write(HOW["truncated"], shared / "name")
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


async def test_a_second_name_of_our_own_file_is_replaced_but_not_written_to(shared: Path) -> None:
    (shared / "private").mkdir(mode=0o700)
    (shared / "private" / "victim").write_bytes(b"precious")
    os.link(shared / "private" / "victim", shared / "name")  # as anybody can without fs.protected_hardlinks
    for how in ("truncated", "appended"):
        with pytest.raises(PermissionError, match="another name"):
            await write(HOW[how], shared / "name")
    await write(HOW["replaced"], shared / "name")
    assert (shared / "private" / "victim").read_bytes() == b"precious"
    assert (shared / "name").read_bytes() == b"new"


@every_way
async def test_in_a_directory_of_a_group_everything_is_as_usual(how: How, shared: Path) -> None:
    (shared / "group").mkdir()
    (shared / "group").chmod(0o2775)
    with somebody():
        (shared / "file").write_bytes(b"old")
        (shared / "link").symlink_to("file")
    os.rename(shared / "file", shared / "group" / "file")
    os.rename(shared / "link", shared / "group" / "link")
    await write(how, shared / "group" / "link")
    assert (shared / "group" / "file").read_bytes().endswith(b"new")


# --- who can read what replaces a file --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "narrowed"),
    [(0o640, 0o600), (0o660, 0o600), (0o644, 0o644), (0o664, 0o644), (0o604, 0o600), (0o666, 0o666), (0o750, 0o700)],
    ids=oct,
)
async def test_a_group_that_cannot_be_kept_lets_no_other_group_read(mode: int, narrowed: int, shared: Path) -> None:
    with somebody():
        (shared / "name").write_bytes(b"old")
    os.chown(shared / "name", -1, STRANGE_GROUP)
    os.chmod(shared / "name", mode)
    with somebody():
        await write(HOW["replaced"], shared / "name")
    assert (shared / "name").read_bytes() == b"new"
    assert (shared / "name").stat().st_gid != STRANGE_GROUP
    assert mode_of(shared / "name") == narrowed


async def test_owner_and_group_are_kept_where_they_can_be_and_privileges_are_dropped(shared: Path) -> None:
    (shared / "in").mkdir()
    path = shared / "in" / "name"
    path.write_bytes(b"old")
    os.chown(path, 65530, STRANGE_GROUP)
    os.chmod(path, 0o6755)
    await write(HOW["replaced"], path)
    status = path.stat()
    assert (status.st_uid, status.st_gid, mode_of(path)) == (65530, STRANGE_GROUP, 0o755)


async def test_a_mode_that_is_changed_meanwhile_counts(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    path.chmod(0o644)
    async with await FileWriteStream.from_path(path, atomic=True) as stream:
        await stream.send(b"new")
        path.chmod(0o600)
    assert (path.read_bytes(), mode_of(path)) == (b"new", 0o600)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """As the kernel has it (linux/posix_acl_xattr.h): tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NO_ID = 0xFFFFFFFF
# user::rw- user:65530:r-- group::r-- mask::r-- other::---
FOR_ONE_MORE = acl((1, 6, NO_ID), (2, 4, 65530), (4, 4, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID))
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def set_attribute(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        pytest.skip(f"the file system of {path} has no {name}: {error}")


async def test_an_access_control_list_and_attributes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    set_attribute(path, ACCESS, FOR_ONE_MORE)
    set_attribute(path, "user.origin", b"somewhere")
    await write(HOW["replaced"], path)
    assert path.read_bytes() == b"new"
    assert os.getxattr(path, ACCESS) == FOR_ONE_MORE
    assert os.getxattr(path, "user.origin") == b"somewhere"
    assert mode_of(path) == 0o640


async def test_the_directory_s_default_opens_a_file_for_nobody_that_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    path.chmod(0o640)
    set_attribute(tmp_path, DEFAULT, FOR_ONE_MORE)
    await write(HOW["replaced"], path)
    assert (mode_of(path), ACCESS in os.listxattr(path)) == (0o640, False)
    await write(HOW["replaced"], tmp_path / "other")  # a new file has what the directory says
    assert os.getxattr(tmp_path / "other", ACCESS) == FOR_ONE_MORE


async def test_an_access_control_list_that_cannot_be_kept_is_said_before_anything_is_written(shared: Path) -> None:
    path = shared / "name"
    with somebody():
        path.write_bytes(b"old")
    os.chown(path, -1, STRANGE_GROUP)
    set_attribute(path, ACCESS, FOR_ONE_MORE)
    with somebody():
        with pytest.raises(PermissionError, match=f"cannot have the attribute {ACCESS} that the old one has"):
            await write(HOW["replaced"], path)
    assert path.read_bytes() == b"old"
    assert [each.name for each in shared.iterdir()] == ["name"]


async def test_privileges_of_a_program_are_not_those_of_its_replacement(shared: Path) -> None:
    (shared / "in").mkdir()
    path = shared / "in" / "name"
    path.write_bytes(b"old")
    # cap_net_raw=ep (linux/capability.h, revision 2)
    set_attribute(path, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0))
    await write(HOW["replaced"], path)
    assert "security.capability" not in os.listxattr(path)


# --- names of descriptors ---------------------------------------------------------------------------------------------


async def test_a_descriptor_has_no_name_to_be_replaced_by(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(ValueError, match="only a regular file can be replaced"):
            await write(HOW["replaced"], Path(f"/dev/fd/{file.fileno()}"))
        await write(HOW["appended"], Path(f"/dev/fd/{file.fileno()}"))
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
