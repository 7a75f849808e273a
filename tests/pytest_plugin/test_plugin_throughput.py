"""The fixture and the marker ``throughput``, in plain tests and under each async plugin."""

from __future__ import annotations

import sys

import pytest
from support.inner_pytest import Inner

from roket_trio.testing import parse_results, parse_speed_results

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the processes that measure need Linux")

QUICK = "mib=1, rounds=1"

PLAIN = f"""
def push(host, port, path):
    with socket.create_connection((host, port)) as sock, open(path, "rb") as file:
        sock.sendfile(file)

def pull(host, port, path):
    with socket.create_connection((host, port)) as sock, open(path, "wb") as file:
        while data := sock.recv(65536):
            file.write(data)

def echo(host, port):
    with socket.create_server((host, port)) as listener:
        sock, _ = listener.accept()
        with sock:
            while data := sock.recv(65536):
                sock.sendall(data)

def test_all(throughput):
    for result in (throughput.push(push, {QUICK}), throughput.pull(pull, {QUICK}), throughput.echo(echo, {QUICK})):
        assert 0 < result.low <= result.times_ceiling <= result.high
        assert result.interval == (result.low, result.high)
        assert result.cpu_seconds_per_gib >= 0
        assert result.verdict == "measured"
"""

TRIO = f"""
import trio

async def push(host, port, path):
    async with await trio.open_tcp_stream(host, port) as stream:
        with open(path, "rb") as file:
            await stream.send_all(file.read())

async def pull(host, port, path):
    async with await trio.open_tcp_stream(host, port) as stream:
        with open(path, "wb") as file:
            async for data in stream:
                file.write(data)

async def echo(host, port):
    (listener,) = await trio.open_tcp_listeners(port, host=host)
    async with listener, await listener.accept() as stream:
        async for data in stream:
            await stream.send_all(data)

@pytest.mark.trio
async def test_all(throughput):
    assert (await throughput.push(push, {QUICK})).times_ceiling > 0
    assert (await throughput.pull(pull, {QUICK})).times_ceiling > 0
    assert (await throughput.echo(echo, {QUICK})).times_ceiling > 0
"""

ANYIO = f"""
from roket_trio import connect_tcp

async def push(host, port, path):
    async with await connect_tcp(host, port) as stream:
        with open(path, "rb") as file:
            await stream.send_file(file)

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio", "asyncio"])
async def test_push(throughput):
    assert (await throughput.push(push, {QUICK})).times_ceiling > 0
"""

ASYNCIO = f"""
import asyncio

async def push(host, port, path):
    reader, writer = await asyncio.open_connection(host, port)
    with open(path, "rb") as file:
        writer.write(file.read())
    await writer.drain()
    writer.close()
    await writer.wait_closed()

@pytest.mark.asyncio
async def test_push(throughput):
    assert (await throughput.push(push, {QUICK})).times_ceiling > 0
"""


def test_functions_of_each_library_are_measured_and_reported(inner: Inner, pytester: pytest.Pytester) -> None:
    suites = {"test_plain": PLAIN, "test_trio": TRIO, "test_anyio": ANYIO, "test_asyncio": ASYNCIO}
    result = inner(suites, "--roket-report=all.jsonl", in_process=False)
    result.assert_outcomes(passed=5)
    lines = (pytester.path / "all.jsonl").read_text().splitlines()
    assert not list(parse_results(lines))
    found = list(parse_speed_results(lines))
    assert [(one.job, one.program) for one in found if "plain" in one.program] == [
        ("push", "test_plain.py::test_all"),
        ("pull", "test_plain.py::test_all (2)"),
        ("echo", "test_plain.py::test_all (3)"),
    ]
    assert len(found) == 3 + 3 + 2 + 1


HELD = f"""
from roket_trio.testing._bench import judging

def push(host, port, path):
    with socket.create_connection((host, port)) as sock, open(path, "rb") as file:
        sock.sendfile(file)

@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(judging, "noise_of", lambda noise: 1.0)

@pytest.fixture
def noisy(monkeypatch):
    monkeypatch.setattr(judging, "noise_of", lambda noise: 1e9)

@pytest.mark.throughput(at_most=999_999)
def test_kept(throughput, quiet):
    assert throughput.push(push, {QUICK}).verdict == "pass"

@pytest.mark.throughput(at_most=1e-5)
def test_not_kept(throughput, quiet):
    throughput.push(push, {QUICK})

@pytest.mark.throughput(at_most=1e-5)
def test_nobody_knows(throughput, noisy):
    throughput.push(push, {QUICK})

@pytest.mark.throughput(at_most=1)
def test_nothing_measured(throughput):
    pass

def test_wrong_byte(throughput):
    def wrong(host, port, path):
        with socket.create_connection((host, port)) as sock, open(path, "rb") as file:
            data = bytearray(file.read())
            data[1000] ^= 1
            sock.sendall(data)
    throughput.push(wrong, {QUICK})

def test_raises(throughput):
    def fails(host, port, path):
        raise KeyError("mine")
    throughput.push(fails, {QUICK})

def test_command(throughput):
    with pytest.raises(ValueError, match="has no"):
        throughput.push("nc")
    with pytest.raises(ValueError, match="at least one"):
        throughput.push(push, mib=0)
"""


def test_the_marker_fails_skips_and_passes(inner: Inner, pytester: pytest.Pytester) -> None:
    result = inner(HELD, "-rs", "--roket-report=all.jsonl")
    result.assert_outcomes(passed=3, failed=3, errors=1, skipped=1)
    output = result.stdout.str()
    assert "1e-05 allowed; measured twice" in output
    assert "inconclusive: push, 1 MiB: " in output
    assert "nothing was measured: @pytest.mark.throughput is for tests that measure" in output
    assert "test_it.py::test_wrong_byte: the byte at offset 1,000 is wrong" in output
    assert "KeyError: 'mine'" in output
    found = list(parse_speed_results((pytester.path / "all.jsonl").read_text().splitlines()))
    verdicts = {one.program.rpartition("::")[2]: one.verdict for one in found}
    assert verdicts == {
        "test_kept": "pass",
        "test_not_kept": "fail",
        "test_nobody_knows": "inconclusive",
        "test_wrong_byte": "error",
    }


def test_what_nobody_knows_fails_when_strict(inner: Inner) -> None:
    result = inner(HELD, "--roket-strict", "-k", "nobody_knows")
    result.assert_outcomes(failed=1)


@pytest.mark.parametrize("arguments", ["", "at_most=0", "at_most='x'", "most=1", "1, 2", "at_most=True"])
def test_a_marker_that_makes_no_sense_is_refused(inner: Inner, arguments: str) -> None:
    result = inner(f"@pytest.mark.throughput({arguments})\ndef test_it(throughput): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*@pytest.mark.throughput:*"])


def test_a_measurement_that_is_not_awaited_leaves_no_process(inner: Inner) -> None:
    code = f"""
    from roket_trio._kernel import procfs
    import os, warnings

    async def push(host, port, path):
        pass

    def test_forgotten(throughput):
        warnings.simplefilter("ignore")
        throughput.push(push, {QUICK})
        assert len(procfs.children(os.getpid())) >= 2

    def test_none_is_left():
        assert not procfs.children(os.getpid())
    """
    inner(code, "-p", "no:unraisableexception", in_process=False).assert_outcomes(passed=2)
