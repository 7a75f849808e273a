"""Push files to an Android device by way of its adb server: many short bursts over one socket.

    python examples/adb_push.py FILE... DIRECTORY    to the device's DIRECTORY, /sdcard/Download say
    python examples/adb_push.py                      a demonstration: 1,000 files to a device in a thread

Shows: send_file for slices of 64 KiB, as adb's SYNC.TXT wants them; reading answers meanwhile; supervise; abort.
Try: ANDROID_SERIAL, as with adb; a file that the device refuses, among others; Ctrl-C in the middle; pull the cable.
Crude: no directories, no compression; DIRECTORY must exist already.
"""

import os
import socket
import sys
from contextlib import ExitStack
from struct import Struct
from threading import Thread

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from roket_trio import BrokenResourceError, SocketStream, connect_tcp, supervise

PACKET = Struct("<4sI")  # a word; a length, or a time


async def main(paths: list[str], into: str, port: int = int(os.environ.get("ANDROID_ADB_SERVER_PORT", "5037"))) -> bool:
    stream, taken, serial = await connect_tcp("127.0.0.1", port), 0, os.environ.get("ANDROID_SERIAL")
    async with supervise(stream, idle_seconds=float(os.environ.get("SILENCE", "30"))):  # it has vanished, then
        exactly = BufferedByteReceiveStream(stream).receive_exactly
        for service in f"host:transport:{serial}" if serial else "host:transport-any", "sync:":
            await stream.send(f"{len(service):04x}{service}".encode())
            if await exactly(4) != b"OKAY":
                raise BrokenResourceError((await exactly(int(await exactly(4), 16))).decode())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push, paths, into, stream)
            for path in paths:
                word, count = PACKET.unpack(await exactly(8))
                taken += word == b"OKAY"
                if word != b"OKAY":
                    print(f"{path}: {(await exactly(count)).decode()}", file=sys.stderr)
    print(f"{taken} of {len(paths)} files pushed, closed {stream.close_report and stream.close_report.outcome.name}")
    return taken == len(paths)


async def push(paths: list[str], into: str, stream: SocketStream) -> None:
    words = b""  # what ends a file goes out with what begins the next
    for path in paths:
        with open(path, "rb") as file, ExitStack() as otherwise:
            otherwise.callback(stream.abort)  # a reset: without it an end between two sends would look like a clean one
            status = os.stat(file.fileno())
            name = f"{into}/{os.path.basename(path)},{status.st_mode}".encode()
            words += PACKET.pack(b"SEND", len(name)) + name
            for offset in range(0, status.st_size, 65536):
                count = min(65536, status.st_size - offset)
                await stream.send(words + PACKET.pack(b"DATA", count))
                if await stream.send_file(file, offset=offset, count=count) < count:
                    raise BrokenResourceError(f"{path} has become shorter")
                words = b""
            words += PACKET.pack(b"DONE", int(status.st_mtime))
            otherwise.pop_all()
    await stream.send(words + PACKET.pack(b"QUIT", 0))


def device(listener: socket.socket) -> None:
    with listener, listener.accept()[0] as peer, peer.makefile("rb") as file:
        peer.sendall(b"OKAYOKAY")
        file.read(22 + 9)  # host:transport-any, and sync:
        while (packet := PACKET.unpack(file.read(8)))[0] != b"QUIT":
            file.read(0 if packet[0] == b"DONE" else packet[1])
            peer.sendall(PACKET.pack(b"OKAY", 0) if packet[0] == b"DONE" else b"")


if __name__ == "__main__":
    try:
        if sys.argv[1:]:
            raise SystemExit(not anyio.run(main, sys.argv[1:-1], sys.argv[-1]))
        Thread(target=device, args=(listener := socket.create_server(("127.0.0.1", 0)),)).start()
        anyio.run(main, [__file__] * 1000, "/sdcard", listener.getsockname()[1])
    except (OSError, anyio.IncompleteRead, BrokenResourceError, KeyboardInterrupt, BaseExceptionGroup) as error:
        raise SystemExit(f"not pushed: {error!r}") from None
