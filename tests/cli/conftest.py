"""Files that commands send, and directories that they receive into."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.roket_command import CONTENT


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """More than any socket buffer holds; of zeros, and of no disk."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory to receive into."""
    path = tmp_path / "place"
    path.mkdir()
    return path
