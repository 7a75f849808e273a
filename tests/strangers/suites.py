"""Which suites are run, and what is known to differ."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, final


@final
@dataclass(frozen=True)
class Suite:
    """The tests in a library's source distribution."""

    name: str
    version: str
    names: Literal["anyio", "trio", "httpcore"]
    """In whose modules our names are put."""
    tests: tuple[str, ...] = ("tests",)
    options: tuple[str, ...] = ()
    """For pytest, in the place of those that the library sets for its own development."""
    extras: str = ""
    needs: tuple[str, ...] = ()
    """What the tests import and the library does not."""
    differs: dict[str, str] = field(default_factory=dict)
    """The tests that pass with the other library's names and not with ours (a part of their ids), and the reasons."""

    @property
    def requirement(self) -> str:
        """The library, as pip is asked for it."""
        return f"{self.name}{self.extras}=={self.version}"


@final
@dataclass(frozen=True)
class Driven:
    """A library that a program of ours uses, since its source distribution has no tests."""

    name: str
    version: str
    names: Literal["anyio", "trio"]
    loops: tuple[str, ...] = ("trio", "asyncio", "uvloop")
    needs: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """The library, as pip is asked for it."""
        return f"{self.name}=={self.version}"


_PYTHON_SOCKS = Suite(
    "python-socks",
    "3.2.1",
    "anyio",
    extras="[anyio,asyncio,trio]",
    needs=("pytest-asyncio", "pytest-trio", "starlette", "tiny-proxy", "trustme", "uvicorn", "yarl"),
)

SUITES = (
    Suite(
        "anyio",
        "4.16.0",
        "anyio",
        tests=("tests/test_sockets.py", "tests/streams/test_tls.py", "tests/streams/test_file.py"),
        options=("-k", "not (UDP or UNIXDatagram or getaddrinfo or getnameinfo)"),
        extras="[trio]",
        needs=("blockbuster", "exceptiongroup", "psutil", "pytest-mock", "trustme", "truststore", "uvloop"),
        differs={
            "::test_send_receive_seqsocket": "no kind=: a SOCK_SEQPACKET socket is no stream of bytes",
            "::test_tcp_connectable": "it replaces a function in a private module of AnyIO's, which ours do not call",
            "::test_unix_connectable": "the same",
            "::test_connect_tcp_closes_winner_on_outer_cancellation": "it replaces a method of AnyIO's private backend",
            "::test_cancelled_receive_pauses_reading": "it looks at asyncio's transport; our streams have none",
            "::test_cancelled_send_does_not_send_the_next_one": "a send that was cut allows no further one",
            "::test_cancelled_send_breaks_stream": "a send that is cancelled before the first byte cuts nothing",
            "::test_ragged_eofs": "a close_notify of the peer's that never comes does not make aclose() raise",
            "::test_truststore_ssl": "the peer of a failed handshake is told why, by an alert, and not cut off",
        },
    ),
    Suite(
        "httpcore",
        "1.0.9",
        "httpcore",
        tests=("tests/_async", "tests/test_cancellations.py"),
        extras="[asyncio,http2,socks,trio]",
        needs=("hpack", "pytest-httpbin", "pytest-trio"),
    ),
    Suite("httpx-ws", "0.9.0", "anyio", needs=("starlette", "uvicorn")),
    Suite(
        "httpx-socks",
        "0.13.1",
        "trio",
        extras="[asyncio,trio]",
        needs=("hypercorn", "pytest-asyncio", "pytest-trio", "starlette", "tiny-proxy", "trustme", "yarl"),
    ),
    Suite("trio-websocket", "0.12.2", "trio", options=("-o", "trio_mode=true"), needs=("pytest-trio", "trustme")),
    Suite(
        "hypercorn",
        "0.18.0",
        "trio",
        extras="[h3,trio]",
        needs=("httpx", "pytest-asyncio", "pytest-trio"),
    ),
    Suite("anynet", "1.2.2", "anyio"),
    Suite("smtpproto", "2.0.0", "anyio", needs=("aiosmtpd",)),
    _PYTHON_SOCKS,
    replace(_PYTHON_SOCKS, names="trio"),
)

DRIVEN = (
    Driven("anycorn", "0.20.1", "anyio", needs=("httpx[http2]", "trustme")),
    Driven("coredis", "6.9.0", "anyio"),
    Driven("websockets", "17.4", "trio", loops=("trio",)),
)
