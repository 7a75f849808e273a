"""httpx over our transport, beside the same client over httpcore's AnyIO backend: a download, an upload, requests."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..endpoints.http_server import http_server
from ..endpoints.processes import Address
from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..testbed import FULL, Testbed

if TYPE_CHECKING:  # loaded by these cases alone: other cases' processes start without
    import httpx

_PIECE = bytes(1 << 20)

Transport = Callable[[], "httpx.AsyncHTTPTransport"]


def over_ours() -> httpx.AsyncHTTPTransport:
    from roket_trio.httpx import AsyncTransport

    return AsyncTransport()


def over_anyio() -> httpx.AsyncHTTPTransport:
    import httpcore
    import httpx

    transport = httpx.AsyncHTTPTransport()
    transport._pool._network_backend = httpcore.AnyIOBackend()  # on Trio httpcore would take another one
    return transport


def client_of(make: Transport, address: Address) -> httpx.AsyncClient:
    import httpx

    return httpx.AsyncClient(transport=make(), base_url="http://{}:{}".format(*address), timeout=60)


def requests(testbed: Testbed) -> int:
    """How many requests there are: 1,000 in a run of full size."""
    return max(10, 1000 * testbed.size // FULL)


def doubled(testbed: Testbed) -> int:
    """256 MiB in a run of full size."""
    return 2 * testbed.size


async def download(make: Transport, testbed: Testbed, stopwatch: Stopwatch) -> Done:
    moved = 0
    with http_server() as address:
        async with client_of(make, address) as client:
            await client.get("/0")  # it has connected
            with stopwatch:
                async with client.stream("GET", f"/{doubled(testbed)}") as answer:
                    async for piece in answer.aiter_raw():
                        moved += len(piece)
    return Done(moved)


async def upload(make: Transport, testbed: Testbed, stopwatch: Stopwatch) -> Done:
    moved = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal moved
        while moved < doubled(testbed):
            piece = _PIECE[: doubled(testbed) - moved]
            yield piece
            moved += len(piece)

    fields = {"Content-Length": str(doubled(testbed))}
    with http_server() as address:
        async with client_of(make, address) as client:
            await client.get("/0")
            with stopwatch:
                (await client.post("/0", content=body(), headers=fields)).raise_for_status()
    return Done(moved)


async def ask(make: Transport, testbed: Testbed, stopwatch: Stopwatch) -> Done:
    moved = 0
    with http_server() as address:
        async with client_of(make, address) as client:
            await client.get("/0")
            with stopwatch:
                for _ in range(requests(testbed)):
                    moved += len((await client.get("/100")).content)
    return Done(moved)


Job = Callable[[Transport, Testbed, Stopwatch], Coroutine[Any, Any, Done]]


def _ways(job: Job) -> tuple[Way, ...]:
    return tuple(
        way
        for loop in LOOPS
        for way in (
            Way(f"httpx over AnyIO on {loop}", "idiom", loop, functools.partial(job, over_anyio)),
            Way(f"httpx over roket_trio on {loop}", "roket", loop, functools.partial(job, over_ours)),
        )
    )


DOWNLOAD_PROFILE = """\
Half is the recv of 64 KiB, which is all that httpcore asks for at once; a fifth is the time limit that httpcore has for
each read (a scope of AnyIO's); a sixth is h11. The limits of time and h11 are the same over AnyIO's streams, which ask
for a checkpoint and a new bytes object of 64 KiB for each read."""

UPLOAD_PROFILE = """\
Two thirds are the send of the pieces, a MiB each, nearly all of it the kernel's copy; a quarter is the time limit that
httpcore has for each write. Did not pay: the 128 KiB that may lie unsent
in any other stream (1.02 to 1.04 of the time over AnyIO's)."""

REQUESTS_PROFILE = """\
A third is the send, in which the kernel runs the server's side too; a sixth the time limits of httpcore; the rest is
Python in httpx, httpcore and h11: headers, URLs, the pool. Over another stream it is the same."""

# Downloads on asyncio and uvloop should take 0.8 of the time; a limit is for every loop, and Trio's is 0.95.
CASES = [
    Case(
        "httpx-download",
        "a download by httpx, over AnyIO's streams and over ours",
        _ways(download),
        Limits(times_faster=1 / 0.95, times_trio=None),
        size=doubled,
        counted=False,
        profile=DOWNLOAD_PROFILE,
    ),
    Case(
        "httpx-upload",
        "an upload by httpx, over AnyIO's streams and over ours",
        _ways(upload),
        Limits(times_faster=1.0, times_trio=None),
        size=doubled,
        counted=False,
        profile=UPLOAD_PROFILE,
    ),
    Case(
        "httpx-requests",
        "requests by httpx over one connection that is kept, over AnyIO's streams and over ours",
        _ways(ask),
        Limits(times_faster=1.0, times_trio=None),
        size=lambda testbed: 100 * requests(testbed),
        unit="request",
        divisor=requests,
        counted=False,
        profile=REQUESTS_PROFILE,
    ),
]
