import trio
from anyio.abc import SocketAttribute
from roket_trio import connect_tcp, create_tcp_listener, serve


async def shout(stream):
    async for chunk in stream:
        await stream.send_all(chunk.upper())


async def main():
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve, shout, await create_tcp_listener(local_host="127.0.0.1"))
        port = listener.extra(SocketAttribute.local_port)
        async with await connect_tcp("127.0.0.1", port) as stream:
            await stream.send_all(b"hello")
            await stream.send_eof()
            async for chunk in stream:
                print(chunk)
        nursery.cancel_scope.cancel()


trio.run(main)
