"""Fixtures of the tests in this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.planned_routes import Kernel, turn_off
from support.received_files import BEFORE
from support.sent_files import ROUTES, Spy
from support.sockets import Pair, connected

from roket_trio._kernel import sendfile, splice


@pytest.fixture
def narrow() -> Iterator[Pair]:
    """A pair between which little can be under way, so that a big file stalls early."""
    with connected(send_buffer=65536, receive_buffer=65536) as sockets:
        yield sockets


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr(os, "sendfile", spy)
    return spy


@pytest.fixture(params=ROUTES)
def send_route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both routes: the fast one, and the plain one with the fast one turned off."""
    name: str = request.param
    if name == "read-send":
        monkeypatch.setattr(sendfile, "AVAILABLE", False)
    return name


@pytest.fixture(params=["splice", "read-send"])
def receive_route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both routes: the fast one, and the plain one with the fast one turned off."""
    name: str = request.param
    if name == "read-send":
        monkeypatch.setattr(splice, "AVAILABLE", False)
    return name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that has 1000 bytes."""
    path = tmp_path / "sink"
    path.write_bytes(BEFORE)
    return path


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.fixture(params=["fast", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel's routes, or all of them turned off."""
    name: str = request.param
    if name == "plain":
        turn_off(monkeypatch)
    return name
