"""The close suite's jobs, as programs of Trio, AnyIO and roket_trio do them: ``structured.py LIBRARY [BACKEND]``.

LIBRARY is ``trio``, ``anyio`` or ``roket``; BACKEND for the last two ``trio`` (default), ``asyncio`` or ``uvloop``.
Each job is written as that library's documentation would have it, without care beyond that: what one gets is judged.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

LIBRARY = sys.argv[1]
BACKEND = sys.argv[2] if len(sys.argv) > 2 else "trio"
ROLE, JOB = os.environ["ROKET_ROLE"], os.environ["ROKET_JOB"]
HOST, PORT = os.environ["ROKET_HOST"], int(os.environ["ROKET_PORT"])
BYTES = int(os.environ.get("ROKET_BYTES", "0"))
SECONDS = float(os.environ.get("ROKET_SECONDS", "0"))
BUDGET = 3.0  # roket_trio's, for a peer that has finished


# --- the libraries' verbs --------------------------------------------------------------------------------------------

if LIBRARY == "trio":
    import trio

    async def connect() -> Any:
        return await trio.open_tcp_stream(HOST, PORT)

    async def serve(handler: Callable[[Any], Awaitable[None]]) -> None:
        await trio.serve_tcp(handler, PORT, host=HOST)

    async def send(stream: Any, data: bytes) -> None:
        await stream.send_all(data)

    async def receive(stream: Any) -> bytes:
        return bytes(await stream.receive_some())

    async def over_tls(stream: Any, context: ssl.SSLContext, server_side: bool) -> Any:
        hostname = None if server_side else "localhost"
        secure = trio.SSLStream(stream, context, server_hostname=hostname, server_side=server_side)
        await secure.do_handshake()
        return secure

else:
    from anyio.streams.tls import TLSStream

    if LIBRARY == "roket":
        import roket_trio

    async def connect() -> Any:
        return await (roket_trio if LIBRARY == "roket" else anyio).connect_tcp(HOST, PORT)

    async def serve(handler: Callable[[Any], Awaitable[None]]) -> None:
        if LIBRARY == "roket":
            # An early answer goes to a peer that is still sending: the close waits for it, as nginx's does.
            policy = roket_trio.ClosePolicy(wait_for_peer=JOB == "early-answer", linger_seconds=10)
            listener = await roket_trio.create_tcp_listener(local_host=HOST, local_port=PORT, close_policy=policy)
            await roket_trio.serve(handler, listener, close_wait_seconds=BUDGET)
        else:
            await (await anyio.create_tcp_listener(local_host=HOST, local_port=PORT)).serve(handler)

    async def send(stream: Any, data: bytes) -> None:
        await stream.send(data)

    async def receive(stream: Any) -> bytes:
        try:
            return bytes(await stream.receive())
        except anyio.EndOfStream:
            return b""

    async def over_tls(stream: Any, context: ssl.SSLContext, server_side: bool) -> Any:
        wrap = roket_trio.wrap_tls if LIBRARY == "roket" else TLSStream.wrap
        hostname = None if server_side else "localhost"
        return await wrap(stream, server_side=server_side, hostname=hostname, ssl_context=context)


async def read_input(count: int) -> bytes:
    """Up to ``count`` bytes of standard input; fewer at its end alone."""
    data = b""
    while len(data) < count and (chunk := await anyio.to_thread.run_sync(os.read, 0, min(count - len(data), 1 << 16))):
        data += chunk
    return data


def write_output(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


async def stay() -> None:
    while await anyio.to_thread.run_sync(os.read, 0, 1 << 16, abandon_on_cancel=True):
        pass


# --- jobs ------------------------------------------------------------------------------------------------------------


async def pipe(stream: Any) -> None:
    async def upload() -> None:
        while chunk := await anyio.to_thread.run_sync(os.read, 0, 1 << 16, abandon_on_cancel=True):
            await send(stream, chunk)
        await stream.send_eof()

    async with stream, anyio.create_task_group() as tasks:
        tasks.start_soon(upload)
        while data := await receive(stream):
            write_output(data)


async def idle(stream: Any) -> None:
    if LIBRARY == "roket":
        try:
            async with roket_trio.supervise(stream, close_wait_seconds=BUDGET):
                await anyio.sleep_forever()
        except roket_trio.PeerGoneError:
            return
    async with stream:
        await anyio.sleep_forever()


async def send_close(stream: Any) -> None:
    data = await read_input(BYTES)
    await send(stream, data)
    await stream.aclose()


async def cancel_send(stream: Any) -> None:
    async with stream:
        with anyio.move_on_after(SECONDS):
            await send(stream, bytes(BYTES))


async def cancel_close(stream: Any) -> None:
    with anyio.move_on_after(SECONDS):
        async with stream:
            await send(stream, bytes(BYTES))


async def close_in_send(stream: Any) -> None:
    async def sender() -> None:
        try:
            await send(stream, bytes(BYTES))
        except Exception as error:  # closed by the other task
            print(repr(error), file=sys.stderr)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender)
        await anyio.sleep(SECONDS)
        await stream.aclose()


async def close_in_receive(stream: Any) -> None:
    async def receiver() -> None:
        try:
            await receive(stream)
        except Exception:
            write_output(b"closed\n")
        else:
            write_output(b"eof\n")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receiver)
        await anyio.sleep(SECONDS)
        await stream.aclose()


async def late_read(stream: Any) -> None:
    async with stream:
        await anyio.sleep(SECONDS)
        while data := await receive(stream):
            write_output(data)


async def echo(stream: Any) -> None:
    async with stream:
        while data := await receive(stream):
            await send(stream, data)


ANSWER: list[bytes] = []


async def early_answer(stream: Any) -> None:
    async with stream:
        if not ANSWER:
            ANSWER.append(await read_input(BYTES))
        await receive(stream)
        await send(stream, ANSWER[0])


async def forget(stream: Any) -> None:
    cycle: list[Any] = [stream]
    cycle.append(cycle)


async def fail(stream: Any) -> None:
    async with stream:
        await send(stream, bytes(BYTES))
        raise RuntimeError("half-way through the answer")


async def secured(stream: Any) -> Any:
    if ROLE == "client":
        return await over_tls(stream, ssl.create_default_context(cafile=os.environ["ROKET_TLS_CA"]), False)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(os.environ["ROKET_TLS_CERT"])
    return await over_tls(stream, context, True)


async def tls_read(stream: Any) -> None:
    async with await secured(stream) as secure:
        while data := await receive(secure):
            write_output(data)


async def tls_send_close(stream: Any) -> None:
    await send_close(await secured(stream))


STAY = {
    "idle": idle,
    "send-close": send_close,
    "cancel-send": cancel_send,
    "cancel-close": cancel_close,
    "close-in-send": close_in_send,
    "close-in-receive": close_in_receive,
    "echo": echo,
    "early-answer": early_answer,
    "forget": forget,
    "raise": fail,
    "tls-send-close": tls_send_close,
}
END = {"pipe": pipe, "late-read": late_read, "tls-read": tls_read}
TAKE_INPUT = {"send-close", "early-answer", "tls-send-close"}


async def main() -> None:
    job = STAY.get(JOB) or END[JOB]
    if ROLE == "client":
        if JOB in END:
            await job(await connect())
        else:
            await stays_with(lambda: connected(job))
        return
    done = anyio.Event()
    failure: list[BaseException] = []

    async def handler(stream: Any) -> None:
        try:
            await job(stream)
        except BaseException as error:
            if JOB not in END or not isinstance(error, Exception):
                failure.append(error)
                raise
            failure.append(error)
        finally:
            done.set()

    if JOB in END:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, handler)
            await done.wait()
            tasks.cancel_scope.cancel()
        sys.exit(1 if failure else 0)
    await stays_with(lambda: serve(handler), after=done if JOB in TAKE_INPUT else None)


async def connected(job: Callable[[Any], Awaitable[None]]) -> None:
    await job(await connect())


async def stays_with(work: Callable[[], Awaitable[None]], after: anyio.Event | None = None) -> None:
    """Do it, and go on until standard input ends; that is read after the job alone, where the job reads it too."""

    async def does() -> None:
        await work()
        finished.set()

    finished = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(does)
        if after is not None:
            await after.wait()
        elif JOB in TAKE_INPUT:
            await finished.wait()
        await stay()
        os._exit(0)


if JOB not in STAY and JOB not in END:
    sys.exit(127)
if LIBRARY == "trio" or BACKEND == "trio":
    anyio.run(main, backend="trio")
else:
    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": BACKEND == "uvloop"})
