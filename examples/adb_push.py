"""Push files to an Android device by way of its adb server: many short bursts over one socket.

    python examples/adb_push.py FILE... DIRECTORY    to the device's DIRECTORY, /sdcard/Download say
    python examples/adb_push.py                      a demonstration: itself, 1,000 times, to a device in a thread

Shows: send_file for slices of at most 64 KiB, as adb's SYNC.TXT wants them; answers that are heard while the next files
are on their way; supervise, for a device that vanishes; on_error="abort": one left in the middle of a file sees a reset.
Try: ANDROID_SERIAL, as with adb; a file that the device refuses, and others that it takes; Ctrl-C; the cable.
Crude: no directories, no compression; DIRECTORY must be there.
"""

import os
import socket
import sys
from struct import Struct
from threading import Thread

import anyio.streams.buffered

from roket_trio import BrokenResourceError, ClosePolicy, SocketStream, connect_tcp, supervise

PACKET = Struct("<4sI")  # a word; a length, or a time
SILENCE = float(os.environ.get("SILENCE", "30"))  # seconds in which nothing moves: the device has vanished


async def main(paths: list[str], directory: str, port: int) -> bool:
    stream, taken = await connect_tcp("127.0.0.1", port, close_policy=ClosePolicy(on_error="abort")), 0
    async with supervise(stream, idle_seconds=SILENCE):
        answers, serial = anyio.streams.buffered.BufferedByteReceiveStream(stream), os.environ.get("ANDROID_SERIAL")
        for service in f"host:transport:{serial}" if serial else "host:transport-any", "sync:":
            await stream.send(f"{len(service):04x}{service}".encode())
            if await answers.receive_exactly(4) != b"OKAY":
                reason = await answers.receive_exactly(int(await answers.receive_exactly(4), 16))
                raise BrokenResourceError(reason.decode())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push, paths, directory, stream)
            for path in paths:
                word, count = PACKET.unpack(await answers.receive_exactly(8))
                taken += word == b"OKAY"
                if word != b"OKAY":
                    print(f"{path}: {(await answers.receive_exactly(count)).decode()}", file=sys.stderr)
    print(f"{taken} of {len(paths)} files pushed, closed {stream.close_report and stream.close_report.outcome.name}")
    return taken == len(paths)


async def push(paths: list[str], directory: str, stream: SocketStream) -> None:
    words = b""  # what ends a file goes out with what begins the next
    for path in paths:
        with open(path, "rb") as file:
            status = os.stat(file.fileno())
            name = f"{directory}/{os.path.basename(path)},{status.st_mode}".encode()
            words += PACKET.pack(b"SEND", len(name)) + name
            for offset in range(0, status.st_size, 65536):
                count = min(65536, status.st_size - offset)
                await stream.send(words + PACKET.pack(b"DATA", count))
                if await stream.send_file(file, offset=offset, count=count) < count:
                    raise BrokenResourceError(f"{path} has become shorter")
                words = b""
            words += PACKET.pack(b"DONE", int(status.st_mtime))
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
            port = int(os.environ.get("ANDROID_ADB_SERVER_PORT", "5037"))
            raise SystemExit(not anyio.run(main, sys.argv[1:-1], sys.argv[-1], port))
        Thread(target=device, args=(listener := socket.create_server(("127.0.0.1", 0)),)).start()
        anyio.run(main, [__file__] * 1000, "/sdcard", listener.getsockname()[1])
    except (OSError, anyio.IncompleteRead, BrokenResourceError, BaseExceptionGroup) as error:
        raise SystemExit(f"not pushed: {error!r}") from None
