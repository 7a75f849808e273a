"""The close suite's jobs, as programs of asyncio's streams do them: ``asyncio_streams.py [uvloop]``.

Each job is written as asyncio's documentation would have it, without care beyond that: what one gets is judged.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

ROLE, JOB = os.environ["ROKET_ROLE"], os.environ["ROKET_JOB"]
HOST, PORT = os.environ["ROKET_HOST"], int(os.environ["ROKET_PORT"])
BYTES = int(os.environ.get("ROKET_BYTES", "0"))
SECONDS = float(os.environ.get("ROKET_SECONDS", "0"))

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


async def read_input(count: int) -> bytes:
    data = b""
    while len(data) < count and (chunk := await asyncio.to_thread(os.read, 0, min(count - len(data), 1 << 16))):
        data += chunk
    return data


def write_output(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


async def close(writer: Writer) -> None:
    writer.close()
    await writer.wait_closed()


async def pipe(reader: Reader, writer: Writer) -> None:
    async def upload() -> None:
        while chunk := await asyncio.to_thread(os.read, 0, 1 << 16):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()

    uploading = asyncio.create_task(upload())
    while data := await reader.read(1 << 16):
        write_output(data)
    await uploading
    await close(writer)


async def idle(reader: Reader, writer: Writer) -> None:
    await asyncio.Event().wait()


async def send_close(reader: Reader, writer: Writer) -> None:
    data = await read_input(BYTES)
    writer.write(data)
    await writer.drain()
    await close(writer)


async def send_for_a_while(writer: Writer) -> None:
    try:
        async with asyncio.timeout(SECONDS):
            writer.write(bytes(BYTES))
            await writer.drain()
    except TimeoutError:
        pass


async def cancel_send(reader: Reader, writer: Writer) -> None:
    await send_for_a_while(writer)
    await close(writer)


async def cancel_close(reader: Reader, writer: Writer) -> None:
    await send_for_a_while(writer)
    try:
        async with asyncio.timeout(0):
            await close(writer)
    except TimeoutError:
        pass


async def close_in_send(reader: Reader, writer: Writer) -> None:
    async def sender() -> None:
        try:
            writer.write(bytes(BYTES))
            await writer.drain()
        except Exception as error:  # closed by the other task
            print(repr(error), file=sys.stderr)

    sending = asyncio.create_task(sender())
    await asyncio.sleep(SECONDS)
    await close(writer)
    await sending


async def close_in_receive(reader: Reader, writer: Writer) -> None:
    async def receiver() -> None:
        try:
            await reader.read(1)
        except Exception:
            write_output(b"closed\n")
        else:
            write_output(b"eof\n")

    receiving = asyncio.create_task(receiver())
    await asyncio.sleep(SECONDS)
    await close(writer)
    await receiving


async def late_read(reader: Reader, writer: Writer) -> None:
    await asyncio.sleep(SECONDS)
    while data := await reader.read(1 << 16):
        write_output(data)
    await close(writer)


async def echo(reader: Reader, writer: Writer) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    await close(writer)


ANSWER: list[bytes] = []


async def early_answer(reader: Reader, writer: Writer) -> None:
    if not ANSWER:
        ANSWER.append(await read_input(BYTES))
    await reader.read(1000)
    writer.write(ANSWER[0])
    await writer.drain()
    await close(writer)


async def forget(reader: Reader, writer: Writer) -> None:
    cycle: list[Any] = [reader, writer]
    cycle.append(cycle)


async def fail(reader: Reader, writer: Writer) -> None:
    writer.write(bytes(BYTES))
    await writer.drain()
    raise RuntimeError("half-way through the answer")


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
    "tls-send-close": send_close,
}
END: dict[str, Callable[[Reader, Writer], Coroutine[object, object, None]]] = {
    "pipe": pipe,
    "late-read": late_read,
    "tls-read": late_read,
}
TAKE_INPUT = {"send-close", "early-answer", "tls-send-close"}


def context() -> dict[str, Any]:
    if not JOB.startswith("tls-"):
        return {}
    if ROLE == "client":
        found = ssl.create_default_context(cafile=os.environ["ROKET_TLS_CA"])
        return {"ssl": found, "server_hostname": "localhost"}
    found = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    found.load_cert_chain(os.environ["ROKET_TLS_CERT"])
    return {"ssl": found}


async def main() -> None:
    job = STAY.get(JOB) or END[JOB]
    if ROLE == "client":
        kept = await asyncio.open_connection(HOST, PORT, **context())
        if JOB in END:
            await job(*kept)
            return
        working = asyncio.create_task(job(*kept))
        if JOB in TAKE_INPUT:
            await working
        await asyncio.to_thread(lambda: [None for _ in iter(lambda: os.read(0, 1 << 16), b"")])
        os._exit(0)
    done = asyncio.Event()
    failure: list[BaseException] = []

    async def handler(reader: Reader, writer: Writer) -> None:
        try:
            await job(reader, writer)
        except BaseException as error:
            failure.append(error)
            if JOB not in END:
                raise
        finally:
            done.set()

    async with await asyncio.start_server(handler, HOST, PORT, **context()):
        if JOB in END or JOB in TAKE_INPUT:
            await done.wait()
        if JOB in END:
            os._exit(1 if failure else 0)
        await asyncio.to_thread(lambda: [None for _ in iter(lambda: os.read(0, 1 << 16), b"")])
        os._exit(0)


if JOB not in STAY and JOB not in END:
    sys.exit(127)
if sys.argv[1:] == ["uvloop"]:
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
