"""Transfers between any byte streams."""

from __future__ import annotations

import errno
import io
import socket
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
import trio.testing
import trustme
from anyio.streams.buffered import BufferedByteReceiveStream
from support.patterns import DATA
from support.planned_routes import Kernel
from support.sockets import connected, read_to_end, reset, send_and_finish
from support.streams import stream_over
from support.threads import thread
from support.waiting import cancelled_when, until

from roket_trio import (
    BrokenResourceError,
    SocketStream,
    Transfer,
    copy,
    wrap_tls,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fast routes, /dev/full and RST as Linux has them")


# --- anything that is a byte stream -----------------------------------------------------------------------------------


async def test_bytes_that_a_wrapper_holds_come_first_and_no_raw_route_is_taken(kernel: Kernel) -> None:
    with connected() as (ours, peer), connected() as (other, other_peer):
        async with stream_over(ours) as raw, stream_over(other) as sink:
            with thread(send_and_finish, peer, DATA), thread(read_to_end, other_peer) as received:
                buffered = BufferedByteReceiveStream(raw)
                assert await buffered.receive_exactly(10) == DATA[:10]
                report = await copy(buffered, sink)
                assert (report.bytes_moved, report.route, report.fallbacks) == (len(DATA) - 10, "read-send", ())
                assert dict(sink.statistics().routes) == {"read-send": 1}
                await sink.aclose()
            assert received.result(0) == (DATA[10:], "FIN")
    assert not any(kernel.moved.values())


@pytest.mark.parametrize("sink_kind", ["file", "socket", "memory"])
async def test_tls_at_the_source_is_decrypted_whatever_the_sink(tmp_path: Path, kernel: Kernel, sink_kind: str) -> None:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)

    def serve(peer: socket.socket) -> None:
        with server_context.wrap_socket(peer, server_side=True) as tls:
            tls.sendall(DATA)
            tls.unwrap()

    with connected() as (ours, peer), connected() as (other, other_peer):
        async with stream_over(ours) as raw, stream_over(other) as sink:
            with thread(serve, peer), thread(read_to_end, other_peer) as received:
                source = await wrap_tls(raw, hostname="localhost", ssl_context=client_context)
                memory = io.BytesIO()
                with (tmp_path / "out").open("wb+") as file:
                    to: Any = {"file": file, "socket": sink, "memory": memory}[sink_kind]
                    assert (await copy(source, to, count=1000)).bytes_moved == 1000
                    report = await copy(source, to)
                    assert report.bytes_moved == len(DATA) - 1000
                    assert report.route == "read-send"
                await source.aclose()
                await sink.aclose()
            got = {
                "file": (tmp_path / "out").read_bytes(),
                "socket": received.result(0)[0],
                "memory": memory.getvalue(),
            }
            assert got[sink_kind] == DATA
    assert not any(kernel.moved.values())


async def test_a_subclass_of_ours_may_do_anything_so_only_its_own_methods_are_used(kernel: Kernel) -> None:
    class Shouting(SocketStream):
        async def send(self, item: bytes | bytearray | memoryview) -> None:
            await super().send(bytes(item).upper())

    with connected() as (ours, peer), thread(read_to_end, peer) as received:
        stream = await Shouting.from_socket(ours)
        with tempfile.TemporaryFile() as file:
            file.write(b"quiet" * 1000)
            file.seek(0)
            report = await copy(file, stream)
        assert report.route == "read-send"
        await stream.aclose()
    assert received.result(0) == (b"QUIET" * 1000, "FIN")
    assert not any(kernel.moved.values())


async def test_a_process_is_fed_from_a_file_and_its_output_goes_into_one(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)

    async with await anyio.open_process([sys.executable, "-c", _UPSIDE_DOWN], stderr=None) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
            report = await copy(source, process.stdin)
            assert (report.bytes_moved, report.route) == (len(DATA), "read-send")
            assert source.tell() == len(DATA)
            await process.stdin.aclose()
            assert (await copy(process.stdout, sink)).bytes_moved == len(DATA)
            assert sink.tell() == len(DATA)
    assert (tmp_path / "out").read_bytes() == DATA[::-1]


_UPSIDE_DOWN = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"


def test_trios_own_streams_are_ends_too() -> None:
    async def main() -> None:
        with connected() as (ours, peer), connected() as (other, other_peer):
            source = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            sink = trio.SocketStream(trio.socket.from_stdlib_socket(other))
            with thread(send_and_finish, peer, DATA), thread(read_to_end, other_peer) as received:
                assert (await copy(source, sink, count=1000)).bytes_moved == 1000
                assert (await copy(source, sink)).bytes_moved == len(DATA) - 1000
                await sink.aclose()
                await source.aclose()
            assert received.result(0) == (DATA, "FIN")

    trio.run(main)


def test_a_failure_of_trios_own_stream_names_the_side(tmp_path: Path) -> None:
    async def main() -> None:
        with connected() as (ours, peer), (tmp_path / "out").open("wb") as file:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            peer.sendall(DATA[:1000])
            transfer = Transfer(stream, file)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def end() -> None:
                    await until(lambda: transfer.bytes_moved == 1000)
                    reset(peer)

                with pytest.raises(BrokenResourceError) as caught:
                    await transfer.run()
            assert (caught.value.side, caught.value.errno) == ("source", errno.ECONNRESET)
            assert caught.value.bytes_moved == 1000
            await trio.aclose_forcefully(stream)
        assert (tmp_path / "out").read_bytes() == DATA[:1000]

    trio.run(main)


async def test_an_empty_object_is_not_the_end() -> None:
    send, receive = anyio.create_memory_object_stream[bytes](5)
    with send, receive:
        for item in (b"one", b"", b"two"):
            send.send_nowait(item)
        send.close()
        sink = io.BytesIO()
        assert (await copy(receive, sink)).bytes_moved == 6
        assert sink.getvalue() == b"onetwo"


async def test_a_connection_is_its_own_mirror() -> None:
    with connected() as (ours, peer):
        async with stream_over(ours) as stream:
            with thread(send_and_finish, peer, DATA), thread(read_to_end, peer) as received:
                assert (await copy(stream, stream)).bytes_moved == len(DATA)
                await stream.aclose()
            assert received.result(0) == (DATA, "FIN")


async def test_a_cancelled_transfer_from_memory_leaves_the_object_at_the_first_unsent_byte() -> None:
    with connected(send_buffer=4096, receive_buffer=4096) as (ours, peer):
        async with stream_over(ours) as stream:
            source = io.BytesIO(DATA)
            source.seek(10)
            transfer = Transfer(source, stream)
            await cancelled_when(lambda: transfer.bytes_moved, transfer.run)
            assert 0 < transfer.bytes_moved < len(DATA) - 10
            assert source.tell() == 10 + transfer.bytes_moved
            with thread(read_to_end, peer) as received:
                await transfer.run()
                await stream.aclose()
            assert received.result(0) == (DATA[10:], "FIN")
            assert source.tell() == len(DATA)


async def test_an_object_that_does_not_block_is_asked_again_and_loses_nothing_when_cancelled() -> None:
    class Slow(io.RawIOBase):
        """Takes three bytes, then nothing until it is told."""

        def __init__(self) -> None:
            self.got = bytearray()
            self.space = 3
            self.asked_in_vain = 0

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int | None:
            if not self.space:
                self.asked_in_vain += 1
                return None
            taken = bytes(data[: self.space])
            self.space -= len(taken)
            self.got += taken
            return len(taken)

    with connected() as (ours, peer):
        async with stream_over(ours) as stream:
            peer.sendall(b"0123456789")
            peer.shutdown(socket.SHUT_WR)
            sink = Slow()
            transfer = Transfer(stream, sink)
            await cancelled_when(lambda: sink.asked_in_vain > 1, transfer.run)
            assert (bytes(sink.got), transfer.bytes_moved) == (b"012", 3)
            sink.space = 100
            assert (await transfer.run()).bytes_moved == 10
            assert bytes(sink.got) == b"0123456789"
