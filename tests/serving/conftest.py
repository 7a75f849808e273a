"""Fixtures of the tests in this folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from support.sockets import Pair
from support.supervised import connected


@pytest.fixture(autouse=True)
def _all_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="roket_trio")


@pytest.fixture(params=["tcp", "unix"])
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """Six of them."""
    made = [connected("tcp") for _ in range(6)]
    yield made
    for sockets in made:
        for sock in sockets:
            sock.close()
