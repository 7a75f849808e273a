"""HTTP clients in Python as their documentation has them, for the jobs ``http-...``: ``python_clients.py LIBRARY``.

The libraries: httpx-trio, httpx-asyncio, httpx-roket-trio, httpx-roket-asyncio, aiohttp, requests, urllib3, urllib.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any

JOB = os.environ["ROKET_JOB"]
URL = os.environ.get("ROKET_URL", "")
FILE = os.environ.get("ROKET_FILE", "")
CAFILE = os.environ.get("ROKET_TLS_CA")
SECONDS = float(os.environ.get("ROKET_SECONDS", "60"))

Fetch = Callable[[], bytes]
AsyncFetch = Callable[[], Awaitable[bytes]]


def tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CAFILE)


def say(line: bytes) -> None:
    os.write(1, line + b"\n")


def wait_for_a_line() -> bool:
    return bool(os.read(0, 1 << 16))


# --- libraries that block --------------------------------------------------------------------------------------------


def run(get: Fetch, put: Fetch) -> None:
    """Do the job. ``get`` has the time limit of the job."""

    def once() -> None:
        try:
            body = get()
        except Exception as error:
            print(repr(error), file=sys.stderr)
            body = b"failed"
        say(body)

    if JOB == "http-get":
        sys.stdout.buffer.write(get())
    elif JOB == "http-put":
        sys.stdout.buffer.write(put())
    else:
        once()
        while wait_for_a_line():
            once()


def with_requests() -> None:
    import requests

    with requests.Session() as session:

        def get() -> bytes:
            answer = session.get(URL, timeout=SECONDS, verify=CAFILE)
            answer.raise_for_status()
            return answer.content

        def put() -> bytes:
            with open(FILE, "rb") as file:
                return session.put(URL, data=file, verify=CAFILE).content

        run(get, put)


def with_urllib3() -> None:
    import urllib3

    with urllib3.PoolManager(ca_certs=CAFILE) as pool:

        def put() -> bytes:
            with open(FILE, "rb") as file:
                return pool.request("PUT", URL, body=file, headers={"Content-Length": str(os.stat(FILE).st_size)}).data

        # It would try again what its time limit has ended.
        retries = False if "ROKET_SECONDS" in os.environ else None
        run(lambda: pool.request("GET", URL, timeout=SECONDS, retries=retries).data, put)


def with_urllib() -> None:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    context = tls() if URL.startswith("https:") else None

    def get() -> bytes:
        with urlopen(URL, timeout=SECONDS, context=context) as answer:
            body: bytes = answer.read()
            return body

    def put() -> bytes:
        with open(FILE, "rb") as file:
            fields = {"Content-Length": str(os.stat(FILE).st_size)}
            try:
                with urlopen(Request(URL, file, fields, method="PUT"), context=context) as answer:
                    body: bytes = answer.read()
                    return body
            except HTTPError as error:
                return error.read()

    run(get, put)


# --- libraries that do not -------------------------------------------------------------------------------------------


async def run_async(get: AsyncFetch, put: AsyncFetch) -> None:
    """Do the job, with AnyIO's time limits and threads."""
    import anyio
    from anyio.to_thread import run_sync

    async def once() -> None:
        body = b"failed"
        with anyio.move_on_after(SECONDS):
            try:
                body = await get()
            except Exception as error:
                print(repr(error), file=sys.stderr)
        say(body)

    if JOB == "http-get":
        sys.stdout.buffer.write(await get())
    elif JOB == "http-put":
        sys.stdout.buffer.write(await put())
    else:
        await once()
        while await run_sync(wait_for_a_line):
            await once()


async def with_httpx(transport: str) -> None:
    import httpx

    more: dict[str, Any] = {"verify": tls() if CAFILE else True}
    if transport == "roket":
        from roket_trio.httpx import AsyncTransport

        more = {"transport": AsyncTransport(**more)}
    async with httpx.AsyncClient(timeout=None, **more) as client:

        async def get() -> bytes:
            answer = await client.get(URL)
            return answer.raise_for_status().content

        async def put() -> bytes:
            async def blocks() -> Any:
                with open(FILE, "rb") as file:
                    while block := file.read(1 << 16):
                        yield block

            fields = {"Content-Length": str(os.stat(FILE).st_size)}
            return (await client.put(URL, content=blocks(), headers=fields)).content

        await run_async(get, put)


async def with_aiohttp() -> None:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls() if CAFILE else True)) as session:

        async def get() -> bytes:
            async with session.get(URL, raise_for_status=True) as answer:
                return await answer.read()

        async def put() -> bytes:
            with open(FILE, "rb") as file:
                async with session.put(URL, data=file, expect100=True) as answer:
                    return await answer.read()

        await run_async(get, put)


def main() -> None:
    if not JOB.startswith("http-"):
        sys.exit(127)
    library, _, more = sys.argv[1].partition("-")
    if library == "httpx":
        import anyio

        transport, _, loop = more.rpartition("-")
        anyio.run(with_httpx, transport, backend=loop)
    elif library == "aiohttp":
        import asyncio

        asyncio.run(with_aiohttp())
    else:
        {"requests": with_requests, "urllib3": with_urllib3, "urllib": with_urllib}[library]()


main()
