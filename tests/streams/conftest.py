"""Fixtures of the tests in this folder."""

from __future__ import annotations

import ssl

import pytest
from support.tls import Contexts, noted


@pytest.fixture(params=["TLSv1.2", "TLSv1.3"])
def version(request: pytest.FixtureRequest, contexts: Contexts) -> str:
    """The test runs with each; the contexts allow no other."""
    name: str = request.param
    for context in contexts:
        context.minimum_version = context.maximum_version = {
            "TLSv1.2": ssl.TLSVersion.TLSv1_2,
            "TLSv1.3": ssl.TLSVersion.TLSv1_3,
        }[name]
    return name


@pytest.fixture(params=["client", "server"])
def side(request: pytest.FixtureRequest) -> str:
    """Which side our stream is."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def _nothing_noted() -> None:
    noted.clear()
