"""Two users: root, who runs the test, and somebody else."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.programs import need_root

SOMEBODY = 65533
"""A user, and the group of the same number, who owns nothing."""

STRANGE_GROUP = 65531


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory like /tmp: root's, and everybody may write to it. Every directory on the way to it can be entered."""
    need_root("two users")
    if sys.platform != "linux":
        pytest.skip("users and links as Linux has them")
    path = Path(tempfile.mkdtemp(prefix="roket-tests-"))
    path.chmod(0o1777)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def somebody() -> Iterator[None]:
    """Be somebody else during the block, in every thread; what was created belongs to him."""
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(SOMEBODY)
    os.seteuid(SOMEBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
