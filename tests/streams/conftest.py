"""Fixtures of the tests in this folder."""

from __future__ import annotations

import ssl

import pytest
import trustme
from support.tls import Contexts, noted


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("localhost", "127.0.0.1")


@pytest.fixture
def contexts(authority: trustme.CA, certificate: trustme.LeafCert) -> Contexts:
    """With ``OP_IGNORE_UNEXPECTED_EOF`` on, as Python makes them."""
    # Not create_default_context(): it takes 30 ms to load the authorities of the system.
    both = Contexts(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    certificate.configure_cert(both.server)
    authority.configure_trust(both.client)
    return both


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
