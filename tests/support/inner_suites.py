"""Test suites, as text, that the tests of the pytest plugin run: clean ones and leaking ones, for each async plugin."""

from __future__ import annotations

CLEAN = """
class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args): pass

@pytest.fixture(scope="session")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()

@pytest.fixture(scope="session")
def pool(server):
    # It connects when it is first used, by a test, and keeps the connection.
    connection = http.client.HTTPConnection("127.0.0.1", server)
    yield connection
    connection.close()

@pytest.fixture(scope="module")
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock

def get(pool):
    pool.request("GET", "/")
    assert pool.getresponse().read() == b"ok"

@pytest.mark.no_socket_leaks
def test_pool(pool): get(pool)

@pytest.mark.no_socket_leaks
def test_pool_again(pool): get(pool)

@pytest.mark.no_socket_leaks
def test_listener(listener):
    with socket.create_connection(listener.getsockname()), listener.accept()[0]:
        pass

@pytest.mark.no_socket_leaks
def test_a_child_that_inherits_a_socket():
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            code = f"import socket; socket.socket(fileno={theirs.fileno()}).sendall(b'hello')"
            child = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()])
        assert ours.recv(100) == b"hello"
        assert child.wait() == 0

@pytest.mark.no_socket_leaks
def test_a_child_with_sockets_of_its_own():
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"up\\n"
        child.communicate(b"\\n")

@pytest.mark.no_socket_leaks
def test_a_thread_that_closes_a_little_later():
    sock = socket.create_server(("127.0.0.1", 0))
    threading.Timer(0.1, sock.close).start()

@pytest.mark.no_socket_leaks
@pytest.mark.xfail
def test_expected_to_fail():
    with socket.create_server(("127.0.0.1", 0)):
        raise RuntimeError

@pytest.mark.no_socket_leaks
@pytest.mark.skip
def test_skipped(): pass

@pytest.mark.no_socket_leaks
@pytest.mark.closes
def test_client(close_peer):
    with connect(close_peer(scripts.echo())) as sock:
        sock.sendall(b"12")
        assert sock.recv(2) == b"12"
"""

CLEAN_TRIO = """
import trio

@pytest.fixture
async def stream(close_peer):
    peer = close_peer(scripts.echo())
    async with await trio.open_tcp_stream(peer.host, peer.port) as stream:
        yield stream

@pytest.mark.trio
@pytest.mark.no_socket_leaks
@pytest.mark.closes
async def test_trio_client(stream):
    await stream.send_all(b"12")
    assert await stream.receive_some() == b"12"

@pytest.mark.trio
@pytest.mark.no_socket_leaks
async def test_trio_child():
    assert (await trio.run_process(["cat"], stdin=b"12", capture_stdout=True)).stdout == b"12"
"""

CLEAN_ANYIO = """
import anyio

pytestmark = [pytest.mark.anyio, pytest.mark.no_socket_leaks]

@pytest.fixture(
    scope="module",
    params=["trio", "asyncio", pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")],
)
def anyio_backend(request):
    return request.param

@pytest.fixture(scope="module")
async def listener(anyio_backend):
    # AnyIO keeps the loop for the whole module.
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        yield listener

@pytest.fixture
async def stream(close_peer):
    peer = close_peer(scripts.echo())
    async with await anyio.connect_tcp(peer.host, peer.port) as stream:
        yield stream

@pytest.mark.closes
async def test_anyio_client(listener, stream):
    await stream.send(b"12")
    assert await stream.receive() == b"12"

async def test_anyio_child(listener):
    assert (await anyio.run_process(["cat"], input=b"12")).stdout == b"12"
"""

CLEAN_ASYNCIO = """
import asyncio, pytest_asyncio

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.no_socket_leaks]

@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server():
    async def answer(reader, writer):
        writer.write(await reader.read(100))
        writer.close()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()

@pytest_asyncio.fixture(loop_scope="module")
async def streams(close_peer):
    peer = close_peer(scripts.echo())
    reader, writer = await asyncio.open_connection(peer.host, peer.port)
    yield reader, writer
    writer.close()
    await writer.wait_closed()

@pytest.mark.closes
async def test_asyncio_client(streams):
    reader, writer = streams
    writer.write(b"12")
    assert await reader.read(2) == b"12"

async def test_asyncio_server(server):
    reader, writer = await asyncio.open_connection(*server)
    writer.write(b"12")
    assert await reader.read(2) == b"12"
    writer.close()
    await writer.wait_closed()

async def test_asyncio_child():
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
    assert (await child.communicate(b"12"))[0] == b"12"
"""

LEAKY = """
@pytest.mark.no_socket_leaks(grace=0.1)
def test_open(keep):
    keep(socket.create_server(("127.0.0.1", 0)))

@pytest.mark.closes(within=0.2)
def test_close_wait(close_peer, keep):
    sock = connect(close_peer(scripts.half_close()))
    keep(sock)
    assert not sock.recv(1)
"""

LEAKY_TRIO = """
import trio

@pytest.mark.trio
@pytest.mark.no_socket_leaks(grace=0.1)
async def test_trio_open(keep):
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    keep(listener.socket._sock)

@pytest.mark.trio
@pytest.mark.closes(within=0.2)
async def test_trio_close_wait(close_peer, keep):
    peer = close_peer(scripts.half_close())
    stream = await trio.open_tcp_stream(peer.host, peer.port)
    keep(stream.socket._sock)
    assert not await stream.receive_some()
"""

LEAKY_ANYIO = """
import anyio
from anyio.abc import SocketAttribute

pytestmark = pytest.mark.anyio

@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request):
    return request.param

def raw(anything):
    sock = anything.extra(SocketAttribute.raw_socket)
    return getattr(sock, "_sock", sock)  # asyncio and Trio hide it

@pytest.mark.no_socket_leaks(grace=0.1)
async def test_anyio_open(keep):
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    keep(raw(listener))

@pytest.mark.closes(within=0.2)
async def test_anyio_close_wait(close_peer, keep):
    peer = close_peer(scripts.half_close())
    stream = await anyio.connect_tcp(peer.host, peer.port)
    keep(raw(stream))
    keep(stream._transport if hasattr(stream, "_transport") else raw(stream))
    with pytest.raises(anyio.EndOfStream):
        await stream.receive()
"""

LEAKY_ASYNCIO = """
import asyncio

pytestmark = pytest.mark.asyncio

@pytest.mark.no_socket_leaks(grace=0.1)
async def test_asyncio_open(keep):
    sock = socket.create_server(("127.0.0.1", 0))
    keep(sock)

@pytest.mark.closes(within=0.2)
async def test_asyncio_close_wait(close_peer, keep):
    peer = close_peer(scripts.half_close())
    sock = socket.socket()
    keep(sock)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, peer.address)
    assert not await asyncio.get_running_loop().sock_recv(sock, 1)
"""
