"""What the page cache says, and what is made of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cold_files import cached_pages, make_cold, until_refused

from roket_trio._kernel import page_cache

SIZE = 600_001


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "f").write_bytes(os.urandom(SIZE))
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def telling_fd(fd: int) -> int:
    if not page_cache.can_tell(fd):
        pytest.skip("this file system cannot tell what is cached")
    return fd


def test_a_warm_file_is_cached_and_reads_as_it_is(telling_fd: int) -> None:
    content = os.pread(telling_fd, SIZE, 0)
    assert page_cache.is_cached(telling_fd, 0, SIZE)
    assert page_cache.is_cached(telling_fd, 5, 0)
    buffer = bytearray(SIZE)
    assert page_cache.read_cached(telling_fd, buffer, 0) == SIZE
    assert buffer == content
    assert page_cache.read_cached(telling_fd, buffer, SIZE) == 0


def test_a_cold_file_is_not_and_fetching_makes_it_so(telling_fd: int, tmp_path: Path) -> None:
    until_refused(tmp_path / "f", lambda: page_cache.is_cached(telling_fd, 300_000, 1000))
    make_cold(tmp_path / "f")
    assert page_cache.fetch(telling_fd, 0, SIZE + 5000) == SIZE
    assert page_cache.is_cached(telling_fd, 0, SIZE)


def test_asking_whether_a_file_can_tell_fetches_nothing(telling_fd: int, tmp_path: Path) -> None:
    make_cold(tmp_path / "f")
    assert page_cache.can_tell(telling_fd)
    assert cached_pages(tmp_path / "f") == 0
    until_refused(tmp_path / "f", lambda: page_cache.read_cached(telling_fd, bytearray(1), 0) is not None)


@pytest.mark.parametrize("name", ["/dev/shm", "/proc/self/status"])
def test_a_file_system_that_cannot_tell_is_noticed(name: str, tmp_path: Path) -> None:
    if not os.path.exists(name):
        pytest.skip(f"there is no {name}")
    if os.path.isdir(name):
        fd = os.open(name, os.O_RDWR | os.O_TMPFILE)
        os.write(fd, b"content")
    else:
        fd = os.open(name, os.O_RDONLY)
    try:
        assert not page_cache.can_tell(fd)
        assert not page_cache.is_cached(fd, 0, 1)
        assert page_cache.read_cached(fd, bytearray(1), 0) is None
    finally:
        os.close(fd)


def test_without_rwf_nowait_nothing_is_known(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "RWF_NOWAIT", None)
    assert not page_cache.can_tell(fd)
    assert not page_cache.is_cached(fd, 0, 1)
    assert page_cache.read_cached(fd, bytearray(1), 0) is None


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
def test_a_refusal_is_no_error(fd: int, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*args: Any) -> int:
        raise OSError(number, "no")

    monkeypatch.setattr(page_cache, "RWF_NOWAIT", 8)
    monkeypatch.setattr(os, "preadv", refuse)
    assert page_cache.read_cached(fd, bytearray(1), 0) is None
    assert page_cache.can_tell(fd) == (number in (errno.EAGAIN, errno.EIO))


def test_an_error_is_one(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> int:
        raise OSError(errno.EBADF, "no")

    monkeypatch.setattr(page_cache, "RWF_NOWAIT", 8)
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match="no"):
        page_cache.read_cached(fd, bytearray(1), 0)
