"""``SSLStream`` and ``SSLListener``: Trio's signatures over :class:`TLSStream`, whose handshake comes first."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast, final

import anyio
import anyio.abc
import trio
from anyio.streams.tls import TLSAttribute

from .. import BrokenResourceError, ClosedResourceError, EndOfStream, TLSStream, wrap_tls
from .._public import public
from ._connecting import text

T_Stream = TypeVar("T_Stream", bound=trio.abc.Stream)

# What Trio hands out of its ``ssl.SSLObject``, and what of it means nothing before the handshake.
_FORWARDED = frozenset({"context", "server_side", "server_hostname", "session", "pending"})
_AFTER_HANDSHAKE = frozenset(
    {
        "session_reused",
        "getpeercert",
        "selected_npn_protocol",
        "cipher",
        "shared_ciphers",
        "compression",
        "get_channel_binding",
        "selected_alpn_protocol",
        "version",
    }
)


@public
@final
class SSLStream(trio.abc.Stream, Generic[T_Stream]):
    """TLS over a stream of Trio's, with the signature of ``trio.SSLStream``, of which it is an instance.

    The handshake is done when the stream is first used, or by :meth:`do_handshake`. From then on it is a
    :class:`roket_trio.TLSStream`, and closes as one: close_notify is sent, a cut send ends in a reset.

    :param transport_stream: any stream of Trio's, which is this one's afterwards
    :param ssl_context: the context
    :param server_hostname: the name that the server's certificate must be for, and that the server is told (SNI)
    :param server_side: whether to take the server's part
    :param https_compatible: whether an end without close_notify is an end like any other

    The methods and attributes of ``ssl.SSLObject`` that ``trio.SSLStream`` has are here too, but ``session`` cannot be
    set. They raise ``trio.NeedHandshakeError`` where Trio's do.
    """

    def __init__(
        self,
        transport_stream: T_Stream,
        ssl_context: ssl.SSLContext,
        *,
        server_hostname: str | bytes | None = None,
        server_side: bool = False,
        https_compatible: bool = False,
    ) -> None:
        self.transport_stream = transport_stream
        self._context = ssl_context
        self._server_hostname = None if server_hostname is None else text(server_hostname)
        self._server_side = server_side
        self._https_compatible = https_compatible
        self._handshaking = trio.Lock()
        self._tls: TLSStream | None = None
        self._is_broken = False
        self._is_closed = False

    async def do_handshake(self) -> None:
        """Do the handshake, if it is not done yet. A second task waits for the first.

        :raises BrokenResourceError: it failed, now or before, or was cancelled before
        :raises ClosedResourceError: this side has closed the stream
        """
        if self._tls is not None:
            await trio.lowlevel.checkpoint()
        await self._handshaken()

    async def _handshaken(self) -> TLSStream:
        if self._tls is None or self._is_closed:
            async with self._handshaking:
                self._check()
                if self._tls is None:
                    self._is_broken = True  # unless it succeeds
                    self._tls = await self._handshake()
                    self._is_broken = False
        return self._tls

    def _check(self) -> None:
        if self._is_closed:
            raise ClosedResourceError("the stream was closed on this side")
        if self._is_broken:
            raise BrokenResourceError("the TLS handshake has failed, or was cancelled")

    async def _handshake(self) -> TLSStream:
        try:
            return await wrap_tls(
                _as_byte_stream(self.transport_stream),
                server_side=self._server_side,
                hostname=self._server_hostname,
                ssl_context=self._context,
                standard_compatible=not self._https_compatible,
            )
        except ssl.SSLError as error:
            raise BrokenResourceError(f"the TLS handshake failed: {error.reason or error}") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; see :meth:`roket_trio.TLSStream.send`."""
        await (await self._handshaken()).send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send might not block."""
        self._check()
        await (self._tls or self.transport_stream).wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive and decrypt; ``b""`` at the end, on each call. See :meth:`roket_trio.TLSStream.receive`.

        :raises TruncatedError: the connection ended without close_notify, and ``https_compatible`` is not set. It is a
            ``trio.BrokenResourceError``
        """
        return await (await self._handshaken()).receive_some(max_bytes)

    async def unwrap(self) -> tuple[T_Stream, bytes]:
        """End TLS and leave the stream below open: exchange close_notify.

        :returns: the stream below, and what was received behind the peer's close_notify
        """
        _, rest = await (await self._handshaken()).unwrap()
        self._is_closed = True
        return self.transport_stream, rest

    async def aclose(self) -> None:
        """Close this stream and the one below; see :meth:`roket_trio.TLSStream.aclose`."""
        was_closed, self._is_closed = self._is_closed, True
        if self._tls is None:
            await self.transport_stream.aclose()
        elif not was_closed:
            await self._tls.aclose()
        else:
            await trio.lowlevel.checkpoint()

    @property
    def _ssl_object(self) -> ssl.SSLObject:
        # Private to Trio's stream, and read by httpcore's backend for Trio, so by everything over it.
        if self._tls is None:
            raise trio.NeedHandshakeError("call do_handshake() before asking for the ssl_object")
        return self._tls.extra(TLSAttribute.ssl_object)

    def __getattr__(self, name: str) -> Any:
        if name in _AFTER_HANDSHAKE and self._tls is None:
            raise trio.NeedHandshakeError(f"call do_handshake() before calling {name!r}")
        if name not in _FORWARDED | _AFTER_HANDSHAKE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if self._tls is not None:
            return getattr(self._ssl_object, name)
        return {
            "context": self._context,
            "server_side": self._server_side,
            "server_hostname": self._server_hostname,
            "session": None,
            "pending": lambda: 0,
        }[name]

    def __setattr__(self, name: str, value: object) -> None:
        if name in _FORWARDED | _AFTER_HANDSHAKE:
            raise AttributeError(f"{name!r} cannot be set")
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_FORWARDED, *_AFTER_HANDSHAKE})


@public
@final
class SSLListener(trio.abc.Listener[SSLStream[T_Stream]], Generic[T_Stream]):
    """A listener of TLS streams, with the signature of ``trio.SSLListener``, of which it is an instance.

    :param transport_listener: what accepts the connections; it is closed with this one
    :param ssl_context: the server's context
    :param https_compatible: see :class:`SSLStream`
    """

    def __init__(
        self,
        transport_listener: trio.abc.Listener[T_Stream],
        ssl_context: ssl.SSLContext,
        *,
        https_compatible: bool = False,
    ) -> None:
        self.transport_listener = transport_listener
        self._ssl_context = ssl_context
        self._https_compatible = https_compatible

    async def accept(self) -> SSLStream[T_Stream]:
        """Wait for a connection. Its handshake is done when the stream is first used."""
        stream = await self.transport_listener.accept()
        return SSLStream(stream, self._ssl_context, server_side=True, https_compatible=self._https_compatible)

    async def aclose(self) -> None:
        """Close the listener below."""
        await self.transport_listener.aclose()


# Each public member of Trio's classes is there, for libraries that ask.
trio.SSLStream.register(SSLStream)
trio.SSLListener.register(SSLListener)


def _as_byte_stream(stream: trio.abc.Stream) -> anyio.abc.AnyByteStream:
    """The stream, if it is AnyIO's too, as this package's are; otherwise one with AnyIO's methods over it."""
    if hasattr(stream, "receive") and hasattr(stream, "send"):
        return cast(anyio.abc.ByteStream, stream)
    return _ByteStream(stream)


@final
class _ByteStream(anyio.abc.ByteStream):
    """AnyIO's methods over a stream that has Trio's alone."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._stream.receive_some(max_bytes)
        if not data:
            raise EndOfStream
        return bytes(data)

    async def send(self, item: bytes) -> None:
        await self._stream.send_all(item)

    async def send_eof(self) -> None:
        raise NotImplementedError("TLS ends with close_notify")

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {}
