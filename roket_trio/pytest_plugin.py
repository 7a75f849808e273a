"""The pytest plugin ``roket``: fixtures, markers and options to test how sockets close.

It is loaded into every pytest run where this package is installed. So it imports pytest alone at its top, and the rest
when a test or an option needs it. Everything is synchronous: it serves plain tests, and those of pytest-trio, AnyIO and
pytest-asyncio alike.

===================  ==================================================================================================
``socket_census``    a fixture: :class:`~roket_trio.testing.fixtures.SocketCensus`, the sockets of this process
``close_peer``       a fixture: :class:`~roket_trio.testing.fixtures.ClosePeers`, starts scripted peers
``closes_cleanly``   a fixture: as ``close_peer``; the program must close cleanly to its peers (FIN, no RST, in time)
``chaos_relay``      a fixture: :class:`~roket_trio.testing.fixtures.ChaosRelays`, starts relays that misbehave
``throughput``       a fixture: :class:`~roket_trio.testing.fixtures.Throughput`, measures how fast bytes are moved;
                     and a marker: by what factor the machine may be faster
``closes``           a marker: how the program closes its connections to ``close_peer``'s peers
``no_socket_leaks``  a marker: what the test opens is closed once it is over
``--roket-census``   watches a whole suite, and names the tests that leave sockets behind
===================  ==================================================================================================

A test is judged when it and its function-scoped fixtures are over. A test that fails for a reason of its own is not
judged, since its traceback refers to its sockets. Its report says what the peers saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ._pytest.hooks import SuiteHooks
    from .testing.fixtures import ChaosRelays, ClosePeers, SocketCensus, Throughput

_FIXTURES = frozenset({"socket_census", "close_peer", "chaos_relay", "closes_cleanly", "throughput"})
_MARKERS = ("no_socket_leaks", "closes", "throughput")
_SWITCHES = ("roket_census", "roket_strict", "roket_no_socket_leaks")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("roket", "how sockets close")
    group.addoption(
        "--roket-census",
        action="store_true",
        help="watch the sockets of the whole suite, and name the tests that leave sockets in CLOSE_WAIT or open",
    )
    group.addoption(
        "--roket-strict",
        action="store_true",
        help="fail the run if the census finds anything, or if something could not be observed",
    )
    group.addoption("--roket-report", metavar="FILE", help="write each verdict as a line of JSON (roket.close/1)")
    parser.addini("roket_census", "as --roket-census", "bool", default=False)
    parser.addini("roket_strict", "as --roket-strict", "bool", default=False)
    parser.addini("roket_no_socket_leaks", "check every test as with no_socket_leaks", "bool", default=False)
    parser.addini("roket_grace", "seconds for the sockets of a test to go, once it is over", default="1.0")
    parser.addini("roket_within", "seconds for a program to close, where `closes` gives none", default="5.0")
    parser.addini(
        "roket_ignore",
        "sockets not to count: shell patterns for kinds and addresses",
        "linelist",
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "no_socket_leaks(grace=seconds, ignore=patterns): every socket that the test opens must be closed once it and "
        "its fixtures are over",
    )
    config.addinivalue_line(
        "markers",
        'closes(expect="clean", within=seconds): how the program closes its connections to the peers of close_peer: '
        '"clean" (FIN and no RST), "reset" or "closed" (either)',
    )
    config.addinivalue_line(
        "markers",
        "throughput(at_most=times): what the test measures by throughput must not certainly take more than so many "
        "times what the machine can do",
    )
    if config.getoption("--roket-report") or any(_is_on(config, name) for name in _SWITCHES):
        _suite(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        is_marked = any(item.get_closest_marker(name) for name in _MARKERS)
        if is_marked or not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            _suite(config).check_markers(item)


def _is_on(config: pytest.Config, name: str) -> bool:
    """Whether the option of that name is given, or is on in the configuration."""
    return bool(config.getoption(name, False) or config.getini(name))


def _suite(config: pytest.Config) -> SuiteHooks:
    """The hooks that do the work; they are registered on the first call."""
    suite: SuiteHooks | None = config.pluginmanager.get_plugin("roket-suite")
    if suite is None:
        from ._pytest.hooks import SuiteHooks

        suite = SuiteHooks(config, has_census=_is_on(config, "roket_census"), is_strict=_is_on(config, "roket_strict"))
        config.pluginmanager.register(suite, "roket-suite")
    return suite


# --- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def socket_census(request: pytest.FixtureRequest) -> SocketCensus:
    """The sockets of this process: `take()`, `change()` since the test began, `assert_none_left()`."""
    return _suite(request.config).census()


@pytest.fixture
def close_peer(request: pytest.FixtureRequest) -> Iterator[ClosePeers]:
    """Start scripted peers: `close_peer(scripts.half_close(b"bye"))`, `close_peer.connect(address, script)`."""
    with _suite(request.config).peers(request.node, must_be_clean=False) as peers:
        yield peers


@pytest.fixture
def closes_cleanly(request: pytest.FixtureRequest) -> Iterator[ClosePeers]:
    """As `close_peer`, and the program must close each connection with a FIN, without a RST, in time."""
    with _suite(request.config).peers(request.node, must_be_clean=True) as peers:
        yield peers


@pytest.fixture
def chaos_relay(request: pytest.FixtureRequest) -> Iterator[ChaosRelays]:
    """Start relays that misbehave: `relay = chaos_relay(peer)`, `relay.add(Latency(0.1), "upstream")`."""
    with _suite(request.config).relays(request.node) as relays:
        yield relays


@pytest.fixture
def throughput(request: pytest.FixtureRequest) -> Iterator[Throughput]:
    """Measure how fast a command or a function moves bytes: `throughput.push(function, mib=64).times_ceiling`."""
    with _suite(request.config).throughput(request.node) as meter:
        yield meter
