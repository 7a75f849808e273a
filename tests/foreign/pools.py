"""The close suite's job ``pool``, as HTTP clients do it: ``pools.py httpx-trio|httpx-asyncio|requests|aiohttp``."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

LIBRARY = sys.argv[1]
URL = f"http://{os.environ['ROKET_HOST']}:{os.environ['ROKET_PORT']}/"


def wait_for_the_end() -> None:
    while os.read(0, 1 << 16):
        pass
    os._exit(0)


async def with_httpx() -> None:
    import anyio.to_thread
    import httpx

    async with httpx.AsyncClient() as client:
        assert (await client.get(URL)).text == "ok"
        await anyio.to_thread.run_sync(wait_for_the_end)


async def with_aiohttp() -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        async with session.get(URL) as answer:
            assert await answer.text() == "ok"
        await asyncio.to_thread(wait_for_the_end)


def with_requests() -> None:
    import requests

    with requests.Session() as session:
        assert session.get(URL).text == "ok"
        wait_for_the_end()


def main() -> Any:
    if os.environ["ROKET_JOB"] != "pool":
        sys.exit(127)
    if LIBRARY == "requests":
        with_requests()
    elif LIBRARY == "aiohttp":
        asyncio.run(with_aiohttp())
    elif LIBRARY == "httpx-asyncio":
        asyncio.run(with_httpx())
    else:
        import trio

        trio.run(with_httpx)


main()
