"""Take uploads over HTTP/1.1 into a directory, with a limit on everything.

    python examples/upload_service.py [OPTIONS] DIRECTORY    until Ctrl-C; the options are --port and the LIMITS below
    python examples/upload_service.py                        a demonstration: one upload is taken, two are refused

Shows: serve with max_connections; ClosePolicy(wait_for_peer=True): an uploader that is refused while it still sends
reads the refusal instead of a reset; Transfer from socket to file, with limits on rate and time; atomic files.
Try: `curl -T big.iso http://127.0.0.1:PORT/`; --mib 1, and the same; --rate 1 --seconds 5; Ctrl-C in the middle.
Crude: only PUT with a length, and one request on a connection. Needs h11: pip install 'roket-trio[cli]'.
"""

import argparse
import re
import tempfile
from contextlib import suppress

import anyio
import h11
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

import roket_trio as roket

LIMITS = {"mib": 64, "seconds": 600, "rate": 100, "connections": 100}  # a file's size, time, MiB a second; at once
NAME = re.compile(rb"/([A-Za-z0-9][A-Za-z0-9._-]{0,99})")  # no way out, nothing hidden, no surprise
PATIENT = roket.ClosePolicy(wait_for_peer=True, linger_seconds=10.0, idle_seconds=2.0)  # serve closes by it


async def answer(stream: roket.SocketStream, given: argparse.Namespace) -> None:
    status = "408 Request Timeout"
    try:
        with anyio.move_on_after(given.seconds):
            status = await take(stream, given)
        await stream.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    except roket.BrokenResourceError as error:
        status = f"lost: {error}"
    print(status, flush=True)


async def take(stream: roket.SocketStream, given: argparse.Namespace) -> str:
    client, parser, request = BufferedByteReceiveStream(stream), h11.Connection(h11.SERVER), None
    with suppress(h11.RemoteProtocolError, anyio.DelimiterNotFound, anyio.IncompleteRead):
        parser.receive_data(await client.receive_until(b"\r\n\r\n", 16384) + b"\r\n\r\n")
        request = parser.next_event()
    if not isinstance(request, h11.Request) or request.method != b"PUT":
        return "400 Bad Request"
    size, name = int(dict(request.headers).get(b"content-length", -1)), NAME.fullmatch(request.target)
    if name is None or size < 0:
        return "403 Forbidden" if name is None else "411 Length Required"
    if size > given.mib << 20:
        return "413 Content Too Large"  # all of it may be on the way at this moment
    if parser.they_are_waiting_for_100_continue:
        await stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    async with await roket.FileWriteStream.from_path(f"{given.directory}/{name[1].decode()}", atomic=True) as file:
        await file.send(first := client.buffer[:size])
        await roket.Transfer(stream, file, count=size - len(first), rate_limit=given.rate << 20).run()
    return "201 Created"


async def main(given: argparse.Namespace, demonstration: dict[str, int]) -> None:
    listener = await roket.create_tcp_listener(local_host="127.0.0.1", local_port=given.port, close_policy=PATIENT)
    print(f"http://127.0.0.1:{(port := listener.extra(SocketAttribute.local_port))}/", flush=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: roket.serve(lambda s: answer(s, given), listener, max_connections=given.connections))
        for name, size in demonstration.items():
            async with await roket.connect_tcp("127.0.0.1", port) as client:
                await client.send(f"PUT {name} HTTP/1.0\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size))
                print(name, size, (await client.receive()).decode().splitlines()[0])
        if demonstration:
            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as place:
        parser = argparse.ArgumentParser(usage=__doc__)
        parser.add_argument("directory", nargs="?", default=place)
        for name, default in {"port": 0, **LIMITS}.items():
            parser.add_argument(f"--{name}", type=int, default=default)
        given = parser.parse_args()
        anyio.run(main, given, {"/good": 1 << 24, "/large": 1 << 28, "/../x": 9} if given.directory == place else {})
