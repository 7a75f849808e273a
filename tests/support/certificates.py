"""Fixtures: an authority, a certificate for this host, and the TLS contexts of both sides."""

from __future__ import annotations

import ssl

import pytest
import trustme

from support.tls import Contexts


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
