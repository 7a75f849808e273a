"""Every promise on every loop, and a leak check around every test."""

from __future__ import annotations

import functools
import gc
import importlib.util
import inspect
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from support.loops import LOOPS, run_bounded, run_on
from support.sockets import Pair, connected
from support.waiting import BOUND

import roket_trio

# pytest runs inside of tests, for the plugin's own.
pytest_plugins = ["pytester", "support.certificates", "support.measured"]


# --- loops -----------------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "loops(*names): the test runs on these loops alone")
    # A shell without job control starts `pytest &` with SIGINT ignored, nohup with SIGHUP, and the programs that the
    # tests start would inherit that (signal(7)). What has a handler here is SIG_DFL there, after execve(2).
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # the run itself goes on ignoring it


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """An ``async def`` test has a loop without asking for it."""
    if inspect.iscoroutinefunction(obj) and collector.istestfunction(obj, name):
        pytest.mark.usefixtures("loop_name")(obj)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What has a loop runs once on each. First, so that a test's parameters in brackets begin with the loop."""
    if "loop_name" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("loops")
        metafunc.parametrize("loop_name", mark.args if mark else LOOPS, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run an ``async def`` test on its loop. Neither pytest-trio nor AnyIO's plugin gets to see it."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    loop: Any = pyfuncitem.funcargs["loop_name"]
    run_bounded(loop, functools.partial(pyfuncitem.obj, **arguments))
    return True


@pytest.fixture
def loop_name(request: pytest.FixtureRequest) -> str:
    """The loop that the test runs on; tests that use it run once on each."""
    name: str = request.param
    if name == "uvloop":
        pytest.importorskip("uvloop")
    return name


@pytest.fixture
def run(loop_name: str) -> Callable[..., Any]:
    """``run(main, *args)``, for a test that is not a coroutine: run ``main`` on the test's loop, within a minute."""
    return functools.partial(run_bounded, loop_name)


# --- leaks -----------------------------------------------------------------------------------------------------------


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
    # What outlives the test is not searched again: pytest's reports and caches add up, to 50 ms for each collection.
    gc.freeze()
    after = _descriptors()
    leaked = {fd: target for fd, target in after.items() if before.get(fd) != target}
    assert not leaked, f"the test left descriptors open: {leaked}"
    # Idle worker threads of Trio and AnyIO end by themselves; a thread of the test's own must have been joined.
    left = [t for t in threading.enumerate() if t not in threads and not t.daemon and "worker" not in t.name.lower()]
    assert not left, f"the test left threads running: {left}"


@pytest.fixture
def tcp_pair() -> Iterator[Pair]:
    """Two connected blocking TCP sockets on loopback: (client, server). Closed afterwards if still open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield client, server


@pytest.fixture
def pair(tcp_pair: Pair) -> Pair:
    """(a socket that becomes our stream, its raw blocking peer), over TCP."""
    tcp_pair[1].settimeout(BOUND)
    return tcp_pair


@pytest.fixture
def small_pair() -> Iterator[Pair]:
    """A pair over TCP, with a peer that takes only a few KB before it is read from."""
    with connected(send_buffer=1 << 20, receive_buffer=4096) as sockets:
        yield sockets


@pytest.fixture
def unix_pair() -> Iterator[Pair]:
    """A pair over UNIX sockets."""
    ours, peer = socket.socketpair()
    peer.settimeout(BOUND)
    with ours, peer:
        yield ours, peer


@pytest.fixture(params=["tcp", "unix"])
def any_pair(request: pytest.FixtureRequest) -> Pair:
    """A pair of each kind: the test runs with both."""
    pair: Pair = request.getfixturevalue("pair" if request.param == "tcp" else "unix_pair")
    return pair
