from roket_trio import trio_compat as trio


async def shout(stream):
    async for chunk in stream:
        await stream.send_all(chunk.upper())


async def main():
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, shout, 0)
        port = listeners[0].socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"hello")
            await stream.send_eof()
            async for chunk in stream:
                print(chunk)
        nursery.cancel_scope.cancel()


trio.run(main)
