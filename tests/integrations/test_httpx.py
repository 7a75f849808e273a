"""httpx and httpcore over this package: what a server closes leaves the pool and the process; answers arrive whole."""

from __future__ import annotations

import functools
import gc
import inspect
import os
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import httpcore
import httpx
import pytest
from support.raw_http import OK, RawServer, answers, one_answer, over_tls, raw_server
from support.sockets import read_to_end
from support.tls import Contexts
from support.waiting import BOUND, until

from roket_trio._kernel import tcp
from roket_trio.httpcore import NetworkBackend
from roket_trio.httpx import AsyncTransport

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a FIN behind unread data is seen on Linux alone")


@pytest.fixture
def server_context(contexts: Contexts) -> ssl.SSLContext:
    contexts.server.set_alpn_protocols(["h2", "http/1.1"])
    return contexts.server


@pytest.fixture
def client_context(contexts: Contexts) -> ssl.SSLContext:
    return contexts.client


async def ask_three_times(transport: AsyncTransport, url: str, server: RawServer) -> None:
    """Three requests to a server that closes each connection when it is idle, and what is left after each of them."""
    async with httpx.AsyncClient(transport=transport, timeout=BOUND) as client:
        for number in range(1, 4):
            server.may_finish.clear()
            assert (await client.get(url)).text == "ok"
            assert len(transport._pool.connections) == 1
            server.may_finish.set()
            # Nobody makes a request meanwhile: the pool itself would notice then.
            await until(lambda: not transport._pool.connections)
            if server.listener.family != socket.AF_UNIX:
                await until(lambda: all(server.ended()))
            assert len(server.connections) == number


async def test_what_the_server_closes_leaves_the_pool_and_the_process_at_once() -> None:
    with raw_server(one_answer) as server:
        await ask_three_times(AsyncTransport(), server.url, server)
        assert len(server.requests) == 3


async def test_what_the_server_resets_leaves_the_pool_too() -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        server.read_head(connection)
        connection.sendall(OK)
        assert server.may_finish.wait(BOUND)
        tcp.discard_on_close(connection)
        tcp.disconnect(connection)

    with raw_server(serve) as server:
        transport = AsyncTransport()
        async with httpx.AsyncClient(transport=transport, timeout=BOUND) as client:
            for _ in range(3):
                server.may_finish.clear()
                assert (await client.get(server.url)).text == "ok"
                assert len(transport._pool.connections) == 1
                server.may_finish.set()
                await until(lambda: not transport._pool.connections)


async def test_an_answer_to_nothing_before_the_fin_is_no_answer_to_the_next_request() -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        server.read_head(connection)
        connection.sendall(OK)
        assert server.may_finish.wait(BOUND)
        connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        server.finish(connection)

    with raw_server(serve) as server:
        await ask_three_times(AsyncTransport(), server.url, server)


FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"


async def is_asked_again_on_another_connection(transport: AsyncTransport, url: str, server: RawServer) -> None:
    async with httpx.AsyncClient(transport=transport, timeout=BOUND) as client:
        for number in range(1, 4):
            assert (await client.get(url)).text == "ok"
            assert len(server.connections) == number
        assert len(server.requests) == 3
        await until(lambda: sum(server.ended()) >= 2)


async def test_bytes_behind_an_answer_are_no_answer_to_the_next_request() -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        while server.read_head(connection):
            connection.sendall(OK + FORGED)

    with raw_server(serve) as server:
        await is_asked_again_on_another_connection(AsyncTransport(), server.url, server)


async def test_bytes_behind_an_answer_through_a_proxy_are_no_answer_to_the_next_request() -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        while server.read_head(connection):
            connection.sendall(OK + FORGED)

    with raw_server(serve) as server:
        transport = AsyncTransport(proxy=server.url)
        await is_asked_again_on_another_connection(transport, "http://elsewhere.example/", server)


@pytest.mark.parametrize("records", [[OK + FORGED], [OK, FORGED], [OK, FORGED[:20]]], ids=["one", "two", "a part"])
async def test_tls_records_behind_an_answer_are_no_answer_to_the_next_request(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, records: list[bytes]
) -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        with server_context.wrap_socket(connection.dup(), server_side=True) as secure:
            while server.read_head(secure):
                # Together, so that the client has the second record as soon as the first.
                secure.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
                for record in records:
                    secure.sendall(record)
                secure.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    with raw_server(serve) as server:
        transport = AsyncTransport(verify=client_context)
        await is_asked_again_on_another_connection(transport, server.url.replace("http:", "https:"), server)


@pytest.mark.parametrize("says_close_notify", [False, True], ids=["FIN", "close_notify"])
@pytest.mark.parametrize("framing", ["", "Content-Length: 2\r\n"], ids=["by the end", "Content-Length"])
async def test_over_tls_an_answer_that_the_end_ends_is_whole_only_with_close_notify(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, framing: str, says_close_notify: bool
) -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        secure = server_context.wrap_socket(connection.dup(), server_side=True, suppress_ragged_eofs=False)
        with secure:
            server.read_head(secure)
            secure.sendall(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{framing}\r\nok".encode())
            if says_close_notify:
                with suppress(OSError):
                    secure.settimeout(0)
                    secure.unwrap()
        server.finish(connection)

    with raw_server(serve) as server:
        server.may_finish.set()
        async with httpx.AsyncClient(transport=AsyncTransport(verify=client_context), timeout=BOUND) as client:
            asked = functools.partial(client.get, server.url.replace("http:", "https:"))
            if framing or says_close_notify:
                assert (await asked()).text == "ok"
            else:
                with pytest.raises(httpx.ReadError, match="without close_notify"):
                    await asked()
            await until(lambda: all(server.ended()))


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
async def test_over_tls(server_context: ssl.SSLContext, client_context: ssl.SSLContext, http2: bool) -> None:
    with raw_server(over_tls(server_context)) as server:
        transport = AsyncTransport(verify=client_context, http2=http2)
        await ask_three_times(transport, server.url.replace("http:", "https:"), server)
        assert [request == b"HTTP/2" for request in server.requests] == [http2] * 3


async def test_an_http2_answer_with_fin_behind_it_arrives_whole(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with raw_server(over_tls(server_context)) as server:
        server.may_finish.set()
        transport = AsyncTransport(verify=client_context, http2=True)
        async with httpx.AsyncClient(transport=transport, timeout=BOUND) as client:
            for _ in range(3):
                async with client.stream("GET", server.url.replace("http:", "https:")) as answer:
                    await until(lambda: all(server.ended()))  # the server's close is noticed before anything is read
                    assert await answer.aread() == b"ok"


async def test_a_server_that_says_close_notify_and_sends_no_fin_gets_no_further_request(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with raw_server(over_tls(server_context, sends_fin=False)) as server:
        transport = AsyncTransport(verify=client_context)
        async with httpx.AsyncClient(transport=transport, timeout=BOUND) as client:
            for _ in range(3):
                server.may_finish.clear()
                answer = await client.get(server.url.replace("http:", "https:"))
                assert answer.text == "ok"
                server.may_finish.set()
                below = answer.extensions["network_stream"]
                await until(functools.partial(below.get_extra_info, "is_readable"))
        assert (len(server.connections), len(server.requests)) == (3, 3)
        await until(lambda: all(server.ended()))


def test_its_arguments_are_httpxs() -> None:
    ours, theirs = (inspect.signature(one).parameters for one in (AsyncTransport, httpx.AsyncHTTPTransport))
    assert [(name, one.default) for name, one in ours.items()] == [(name, one.default) for name, one in theirs.items()]


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with raw_server(one_answer, path) as server:
        await ask_three_times(AsyncTransport(uds=path), "http://localhost/", server)


async def test_through_an_http_proxy() -> None:
    with raw_server(one_answer) as server:
        await ask_three_times(AsyncTransport(proxy=server.url), "http://elsewhere.example/", server)
        assert all(request.startswith(b"GET http://elsewhere.example/ ") for request in server.requests)


async def test_through_a_tunnel(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        assert server.read_head(connection).startswith(b"CONNECT 127.0.0.1:443 ")
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        over_tls(server_context)(server, connection)

    with raw_server(serve) as server:
        transport = AsyncTransport(proxy=server.url, verify=client_context)
        await ask_three_times(transport, "https://127.0.0.1/", server)


async def test_through_a_socks_proxy() -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        connection.recv(64)  # the methods
        connection.sendall(b"\x05\x00")
        connection.recv(64)  # CONNECT
        connection.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
        one_answer(server, connection)

    with raw_server(serve) as server:
        transport = AsyncTransport(proxy=server.url.replace("http:", "socks5:"))
        await ask_three_times(transport, "http://elsewhere.example/", server)


@pytest.mark.parametrize("framing", ["Content-Length", "chunked", "FIN"])
async def test_an_answer_with_fin_behind_it_arrives_whole_to_a_slow_reader(framing: str) -> None:
    data = os.urandom(1 << 20)
    head = {
        "Content-Length": f"Content-Length: {len(data)}\r\n",
        "chunked": "Transfer-Encoding: chunked\r\n",
        "FIN": "Connection: close\r\n",
    }[framing]
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if framing == "chunked" else data

    def serve(server: RawServer, connection: socket.socket) -> None:
        server.read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head.encode() + b"\r\n" + body)
        server.finish(connection)

    with raw_server(serve) as server:
        server.may_finish.set()
        transport = AsyncTransport()
        async with httpx.AsyncClient(transport=transport, timeout=BOUND) as client:
            got = b""
            async with client.stream("GET", server.url) as answer:
                async for part in answer.aiter_raw():
                    got += part
                    await anyio.sleep(0.005)
            assert got == data
            await until(lambda: all(server.ended()) and not transport._pool.connections)


async def test_an_answer_cut_off_is_an_error() -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        server.read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        server.finish(connection)

    with raw_server(serve) as server:
        server.may_finish.set()
        async with httpx.AsyncClient(transport=AsyncTransport(), timeout=BOUND) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(server.url)


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # httpx's body, which nobody closes
async def test_an_early_answer_to_an_upload_arrives() -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        server.read_head(connection)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        server.finish(connection)
        read_to_end(connection)

    async def body() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 16)

    with raw_server(serve) as server:
        server.may_finish.set()
        async with httpx.AsyncClient(transport=AsyncTransport(), timeout=BOUND) as client:
            answer = await client.post(server.url, content=body())
            assert (answer.status_code, answer.text) == (413, "big")


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # as above
async def test_a_cut_upload_ends_in_a_reset_for_the_server() -> None:
    ends: list[str] = []
    may_read = threading.Event()

    def serve(server: RawServer, connection: socket.socket) -> None:
        server.read_head(connection)
        may_read.wait(BOUND)
        ends.append(read_to_end(connection)[1])

    with raw_server(serve) as server:
        async with httpx.AsyncClient(transport=AsyncTransport(), timeout=httpx.Timeout(BOUND, write=0.2)) as client:
            with pytest.raises((httpx.WriteTimeout, httpx.ReadError)):
                await client.post(server.url, content=bytes(64 << 20))
        may_read.set()
        await until(lambda: ends)
    assert ends == ["RST"]


async def test_errors_are_httpxs() -> None:
    def silent(server: RawServer, connection: socket.socket) -> None:
        server.read_head(connection)
        connection.recv(1)

    with raw_server(silent) as server:
        async with httpx.AsyncClient(transport=AsyncTransport(), timeout=httpx.Timeout(BOUND, read=0.05)) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(server.url)
    async with httpx.AsyncClient(transport=AsyncTransport(retries=1), timeout=BOUND) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(server.url)
        with pytest.raises(httpx.ConnectError):
            await client.get(server.url.replace("http:", "https:"))


async def test_a_failed_handshake_leaves_no_descriptor() -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        read_to_end(connection)

    with raw_server(serve) as server:
        async with httpx.AsyncClient(transport=AsyncTransport(), timeout=BOUND) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(server.url.replace("http:", "https:"))
            await until(lambda: all(server.ended()))


async def test_a_cancelled_handshake_leaves_no_descriptor(client_context: ssl.SSLContext) -> None:
    def serve(server: RawServer, connection: socket.socket) -> None:
        read_to_end(connection)

    with raw_server(serve) as server:
        async with httpx.AsyncClient(transport=AsyncTransport(verify=client_context), timeout=None) as client:
            with anyio.move_on_after(0.1) as scope:
                await client.get(server.url.replace("http:", "https:"))
            assert scope.cancelled_caught
            await until(lambda: all(server.ended()))


async def test_the_client_is_entered_in_one_task_and_left_in_another() -> None:
    with raw_server(one_answer) as server:
        server.may_finish.set()
        transport = AsyncTransport()
        client = httpx.AsyncClient(transport=transport, timeout=BOUND)

        async def use() -> None:
            assert (await client.get(server.url)).text == "ok"
            # A request that crosses the server's FIN on the wire fails with every client.
            await until(lambda: not transport._pool.connections)

        for part in (client.__aenter__, use, use, client.aclose):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(part)
        await until(lambda: all(server.ended()))


async def test_a_client_that_is_dropped_is_not_kept() -> None:
    with raw_server(answers) as server:
        client = httpx.AsyncClient(transport=AsyncTransport(), timeout=BOUND)
        assert (await client.get(server.url)).text == "ok"
        with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031 - the collector is what warns
            del client
            for _ in range(3):
                gc.collect()
        await until(lambda: all(server.ended()))


async def test_httpcores_pool_with_the_backend_alone() -> None:
    told: list[int] = []
    option = (socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    with raw_server(one_answer) as server:
        backend = NetworkBackend(lambda: told.append(1))
        async with httpcore.AsyncConnectionPool(network_backend=backend, socket_options=[option]) as pool:
            for _ in range(3):
                told.clear()
                server.may_finish.clear()
                async with pool.stream("GET", server.url) as answer:
                    stream = answer.extensions["network_stream"]
                    sock = stream.get_extra_info("socket")
                    assert sock.getsockopt(*option[:2]) == 2 * option[2]
                    assert stream.get_extra_info("server_addr") == server.address
                    assert stream.get_extra_info("ssl_object") is None
                    assert stream.get_extra_info("no such thing") is None
                    assert await answer.aread() == b"ok"
                server.may_finish.set()
                await until(lambda: told)
                assert stream.get_extra_info("is_readable")
            assert len(pool.connections) == 1
        assert all(server.ended())


async def test_how_much_may_lie_unsent_is_an_option_like_others() -> None:
    """Otherwise uploads would be slower than over AnyIO's streams, which leave it to the send buffer."""
    name = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    for options, unsent in (None, 4 << 20), ([(*name, 1 << 17)], 1 << 17):
        with raw_server(one_answer) as server:
            host, port = server.address
            stream = await NetworkBackend().connect_tcp(host, port, socket_options=options)
            assert stream.get_extra_info("socket").getsockopt(*name) == unsent
            await stream.aclose()


async def test_an_idle_connection_is_used_again() -> None:
    with raw_server(answers) as server:
        async with httpx.AsyncClient(transport=AsyncTransport(), timeout=BOUND) as client:
            for _ in range(20):
                assert (await client.get(server.url)).text == "ok"
        assert len(server.connections) == 1
        await until(lambda: all(server.ended()))
