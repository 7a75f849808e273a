"""Send a file over TCP under a progress bar, and say how far it got when it is interrupted.

    python examples/progress_bar.py FILE HOST PORT    send FILE to whoever listens there
    python examples/progress_bar.py                   a demonstration: 64 MiB at 64 MiB/s, to a thread that reads them

Shows: Transfer, whose bytes_moved another task reads for rich's bar while the kernel moves the bytes (sendfile);
no callback, nothing per byte; rate_limit; a cancelled transfer that knows what it has sent and resets the connection.
Try: `nc -l 9000 > copy` as the other end; Ctrl-C half way, here or there; a narrow terminal; `2>file`, for no bar.
Crude: no retry, though a Transfer may be run again. Needs rich: pip install 'roket-trio[cli]'.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from threading import Thread

import anyio
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from roket_trio import BrokenResourceError, FileReadStream, Transfer, connect_tcp


async def send(path: str, host: str, port: int, rate_limit: float | None = None) -> bool:
    """Whether all of it was sent and acknowledged."""
    size = os.path.getsize(path)
    async with await FileReadStream.from_path(path) as file, await connect_tcp(host, port) as stream:
        transfer = Transfer(file, stream, rate_limit=rate_limit)
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(show, transfer, size)
                tasks.start_soon(obey, signals, tasks.cancel_scope)
                with suppress(BrokenResourceError):
                    await transfer.run()
                tasks.cancel_scope.cancel()
    end = stream.close_report  # after Ctrl-C, a reset: nobody shall take what there is for the whole file
    print(f"{transfer.bytes_moved} of {size} bytes by {transfer.route}, closed {end.outcome.name if end else '?'}")
    return transfer.bytes_moved == size and end is not None and end.acked


async def show(transfer: Transfer, size: int) -> None:
    console, columns = Console(stderr=True), (BarColumn(None), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=size)
        try:
            while True:
                bar.update(task, completed=transfer.bytes_moved, refresh=True)
                await anyio.sleep(0.1)
        finally:
            bar.update(task, completed=transfer.bytes_moved, refresh=True)


async def obey(signals: AsyncIterator[signal.Signals], everything: anyio.CancelScope) -> None:
    async for _ in signals:
        everything.cancel()


def read_all(server: socket.socket) -> None:
    with suppress(ConnectionResetError), server.accept()[0] as peer:
        while peer.recv(1 << 20):
            pass


if __name__ == "__main__":
    try:
        if sys.argv[1:]:
            path, host, port = sys.argv[1:]
            raise SystemExit(not anyio.run(send, path, host, int(port)))
        with socket.create_server(("127.0.0.1", 0)) as server, tempfile.NamedTemporaryFile() as large:
            large.truncate(64 << 20)
            Thread(target=read_all, args=(server,), daemon=True).start()
            raise SystemExit(not anyio.run(send, large.name, "127.0.0.1", server.getsockname()[1], 64 << 20))
    except (OSError, ValueError, KeyboardInterrupt) as error:
        raise SystemExit(f"not sent: {error!r}") from None
