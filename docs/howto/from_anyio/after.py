import sys

import anyio
from anyio.abc import SocketAttribute
from roket_trio import FileWriteStream, connect_tcp, create_tcp_listener, serve


async def store(stream):
    async with await FileWriteStream.from_path("received", atomic=True) as file:
        await stream.receive_file(file)


async def push(path, port):
    async with await connect_tcp("127.0.0.1", port) as stream:
        with open(path, "rb") as file:
            await stream.send_file(file)


async def main(path):
    listener = await create_tcp_listener(local_host="127.0.0.1")
    shutdown = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: serve(store, listener, shutdown=shutdown))
        await push(path, listener.extra(SocketAttribute.local_port))
        shutdown.set()


anyio.run(main, sys.argv[1])
