"""A pytest plugin: our names in the modules of AnyIO, Trio or httpcore, as ``ROKET_NAMES`` says, before the tests.

It is loaded by its path, in suites that know nothing of this checkout.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import SimpleNamespace
from typing import Any


def put(module: Any, source: Any, names: list[str]) -> None:
    for name in names:
        setattr(module, name, getattr(source, name))


def resolve_by(module_name: str) -> None:
    """Look names up by the ``getaddrinfo`` in another library's module, as its own functions do: tests replace it."""
    from roket_trio._net import addresses

    module = import_module(module_name)

    async def getaddrinfo(*arguments: Any, **more: Any) -> Any:
        return await module.getaddrinfo(*arguments, **more)

    vars(addresses)["anyio"] = SimpleNamespace(getaddrinfo=getaddrinfo)


def put_anyio() -> None:
    import anyio
    import anyio.abc
    import anyio.streams.tls

    import roket_trio

    functions = ["connect_tcp", "connect_unix", "create_tcp_listener", "create_unix_listener"]
    put(anyio, roket_trio, [*functions, "TCPConnectable", "UNIXConnectable", "as_connectable"])
    put(anyio.abc, roket_trio, ["SocketStream", "UNIXSocketStream", "SocketListener"])
    put(anyio.streams.tls, roket_trio, ["TLSStream", "TLSListener"])
    resolve_by("anyio._core._sockets")


def put_trio() -> None:
    import trio

    from roket_trio import trio_compat

    put(trio, trio_compat, list(trio_compat.__all__))
    resolve_by("trio._highlevel_open_tcp_stream")


def put_httpcore() -> None:
    from roket_trio.httpcore import NetworkBackend

    for name in ("connection_pool", "connection", "http_proxy", "socks_proxy"):
        module = import_module(f"httpcore._async.{name}")
        if hasattr(module, "AutoBackend"):
            module.AutoBackend = NetworkBackend  # type: ignore[attr-defined]


names = os.environ.get("ROKET_NAMES")
if names:
    {"anyio": put_anyio, "trio": put_trio, "httpcore": put_httpcore}[names]()
