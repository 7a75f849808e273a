"""Every promise on every loop, and a leak check around every test."""

from __future__ import annotations

import gc
import importlib.util
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest

import roket_trio

# pytest runs inside of tests, for the plugin's own.
pytest_plugins = ["pytester", "support.measured"]

LOOPS = ["trio", "asyncio", "uvloop"]


def run_on(loop: str, main: Callable[..., Coroutine[Any, Any, Any]], *args: object) -> Any:
    """Run ``main(*args)`` to its end on the named loop."""
    if loop == "trio":
        return anyio.run(main, *args, backend="trio")
    return anyio.run(main, *args, backend="asyncio", backend_options={"use_uvloop": loop == "uvloop"})


@pytest.fixture(params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    """The loop that the test runs on; tests that use it run once on each."""
    name: str = request.param
    if name == "uvloop":
        if sys.platform == "win32":
            pytest.skip("uvloop does not exist for Windows")
        pytest.importorskip("uvloop")
    return name


@pytest.fixture
def run(loop_name: str) -> Callable[..., Any]:
    """``run(main, *args)``: run an async function to its end on the test's loop, within a minute."""

    async def bounded(main: Callable[..., Coroutine[Any, Any, Any]], *args: object) -> Any:
        with anyio.fail_after(60):
            return await main(*args)

    return lambda main, *args: run_on(loop_name, bounded, main, *args)


@pytest.fixture(scope="session", autouse=True)
def _uvloop_has_its_global_pipe() -> None:
    """libuv opens one pipe for signals in a process, at its first loop, and keeps it: that is no test's leak."""
    if importlib.util.find_spec("uvloop"):
        run_on("uvloop", anyio.sleep, 0)


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor of the listing itself
            continue
    return found


@pytest.fixture(scope="session", autouse=True)
def _what_is_loaded_is_not_searched_for_leaks() -> None:
    """Without this a collection takes 80 ms, for the modules of pytest, Hypothesis and Trio; with it 3."""
    for name in roket_trio.__all__:
        getattr(roket_trio, name)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """No descriptor and no thread of ours survives a test, and nothing is left to a garbage collector."""
    if not os.path.isdir("/proc/self/fd"):
        yield
        return
    before = _descriptors()
    threads = set(threading.enumerate())
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()
    after = _descriptors()
    leaked = {fd: target for fd, target in after.items() if before.get(fd) != target}
    assert not leaked, f"the test left descriptors open: {leaked}"
    # Idle worker threads of Trio and AnyIO end by themselves; a thread of the test's own must have been joined.
    left = [t for t in threading.enumerate() if t not in threads and not t.daemon and "worker" not in t.name.lower()]
    assert not left, f"the test left threads running: {left}"


@pytest.fixture
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected blocking TCP sockets on loopback: (client, server). Closed afterwards if still open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield client, server
