"""``release_at_fin`` below TLS: what the peer had sent is decrypted after the descriptor is gone."""

from __future__ import annotations

import socket
import sys

import pytest
from support.sockets import Pair, read_to_end
from support.tls import DATA, Contexts, receive_all, tls_over
from support.waiting import until

from roket_trio import BrokenResourceError, ClosedResourceError, TruncatedError

SENT = DATA[:40_000]  # what the kernel takes for a receiver that does not look

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a FIN behind unread data is seen on Linux alone")


@pytest.mark.parametrize("says_close", [True, False], ids=["with close_notify", "without"])
async def test_what_came_before_the_end_is_decrypted_without_a_descriptor(
    pair: Pair, contexts: Contexts, says_close: bool
) -> None:
    async with tls_over(pair, contexts) as (stream, peer):
        told = []
        stream.release_at_fin(lambda: told.append(pair[0].fileno()))
        peer.send(SENT)
        if says_close:
            peer.say_close()
        pair[1].shutdown(socket.SHUT_WR)
        await until(lambda: told)
        assert told == [-1]
        if says_close:
            assert await receive_all(stream) == SENT
        else:
            with pytest.raises(TruncatedError) as caught:
                await receive_all(stream)
            assert caught.value.bytes_moved == len(SENT)
        with pytest.raises(BrokenResourceError):
            await stream.send(b"x")
        assert read_to_end(pair[1])[1] == "FIN"
        await stream.aclose()
        with pytest.raises(ClosedResourceError):
            await stream.receive()
