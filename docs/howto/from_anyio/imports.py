import sys

import anyio
from anyio.abc import SocketAttribute
from roket_trio import connect_tcp, create_tcp_listener


async def store(stream):
    async with stream, await anyio.open_file("received", "wb") as file:
        async for chunk in stream:
            await file.write(chunk)


async def push(path, port):
    async with await connect_tcp("127.0.0.1", port) as stream, await anyio.open_file(path, "rb") as file:
        while chunk := await file.read(65536):
            await stream.send(chunk)


async def main(path):
    listener = await create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, store)
        await push(path, listener.extra(SocketAttribute.local_port))
        await anyio.sleep(0.2)  # it is hoped that all has arrived by then
        tasks.cancel_scope.cancel()


anyio.run(main, sys.argv[1])
