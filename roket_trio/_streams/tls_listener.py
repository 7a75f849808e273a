"""``TLSListener``: AnyIO's listener of that name, over any listener."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import wraps
from typing import Any

import anyio
import anyio.abc
from anyio.streams import tls

from .._public import public
from .tls import TLSStream
from .transport import aclose_after_alert, reset


@public
class TLSListener(tls.TLSListener):
    """AnyIO's listener that makes a TLS stream of every connection, over any listener. It can be subclassed.

    It has no ``accept`` as Trio's listeners have: a handshake in there would let one silent client block all others.

    :param listener: what accepts the connections; it is closed with this one
    :param ssl_context: the server's context
    :param standard_compatible: whether an end without close_notify is an error, :class:`TruncatedError`
    :param handshake_timeout: how long a handshake may take (seconds)
    """

    async def handshake(self, stream: anyio.abc.AnyByteStream) -> TLSStream:
        """Do the handshake with a client that was accepted; call it in the connection's own task.

        :raises TimeoutError: it took longer than ``handshake_timeout``
        :raises ssl.SSLError: it failed; the client was told with an alert
        :raises BrokenResourceError: the connection is gone

        On any failure the connection is closed before this raises: gracefully after an alert, so that the alert
        arrives, with a reset otherwise. Cancellation: the connection is reset at once.
        """
        limit = self.handshake_timeout
        try:
            with anyio.fail_after(limit):
                return await TLSStream.wrap(
                    stream,
                    server_side=True,
                    ssl_context=self.ssl_context,
                    standard_compatible=self.standard_compatible,
                )
        except ssl.SSLError:
            await aclose_after_alert(stream)  # noqa: ASYNC120 - a cancelled task need not know why it failed
            raise
        except TimeoutError:
            await reset(stream)  # noqa: ASYNC120 - a cancelled task need not know that the time was over
            raise TimeoutError(f"no TLS handshake within {limit} seconds") from None
        except BaseException:
            await reset(stream)  # noqa: ASYNC102 - done before its first checkpoint
            raise

    async def serve(self, handler: Callable[[TLSStream], Any], task_group: anyio.abc.TaskGroup | None = None) -> None:
        """Accept for ever, and call ``handler(tls_stream)`` in a task of its own for each connection.

        The handshake is done in that task too, so that it blocks no other client. If it fails, the connection is
        closed and ``handle_handshake_error`` logs it, as in AnyIO.

        :param task_group: where the handlers run; a group of its own, ended with it, when omitted
        """

        @wraps(handler)
        async def handshake_first(stream: anyio.abc.AnyByteStream) -> None:
            try:
                tls_stream = await self.handshake(stream)
            except BaseException as error:  # noqa: ASYNC103 - AnyIO's method re-raises all but ordinary errors
                await self.handle_handshake_error(error, stream)  # noqa: ASYNC102 - what is there is closed already
            else:
                await handler(tls_stream)

        await self.listener.serve(handshake_first, task_group)
