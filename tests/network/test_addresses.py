"""Hosts that have one family, loopback alone, or names that say more than is true: namespaces of the tests' own.

Each runs a program in a network and a mount namespace, with an ``/etc/hosts`` of its own. Needs root, iproute2 and
util-linux.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.programs import need_root, tool
from support.roket_command import environment

from roket_trio.testing import parse_results

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")

LOOPBACK = "ip link set lo up"
CABLE = "ip link add name near type veth peer name far && ip link set near up && ip link set far up"
IPV6_OFF = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
NO_IPV6_ON_CABLES = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"
LINK_LOCAL = "ip address add fe80::7/64 dev lo nodad"

# What each host has, and which addresses it can be reached at.
HOSTS: dict[str, tuple[list[str], set[str]]] = {
    "loopback alone": ([LOOPBACK], {"127.0.0.1", "::1", "localhost"}),
    "loopback alone, IPv6 off": ([LOOPBACK, IPV6_OFF], {"127.0.0.1", "localhost"}),
    "loopback of IPv6 alone": ([LOOPBACK, "ip address del 127.0.0.1/8 dev lo"], {"::1", "localhost"}),
    "IPv4 alone": (
        [LOOPBACK, NO_IPV6_ON_CABLES, CABLE, "ip address add 10.77.0.1/24 dev near"],
        {"127.0.0.1", "::1", "localhost", "10.77.0.1"},
    ),
    "IPv6 alone": (
        [LOOPBACK, CABLE, "ip address add fd77::1/64 dev near nodad", LINK_LOCAL],
        {"127.0.0.1", "::1", "localhost", "fd77::1", "fe80::7%lo"},
    ),
}

PROGRAM = """
import json, socket, sys
import anyio
from anyio.abc import SocketAttribute
from roket_trio import connect_tcp, create_tcp_listener

async def talk(listener, host, local=None):
    "A byte from a client to the server."
    async with await connect_tcp(host, listener.extra(SocketAttribute.local_port), local_host=local) as client:
        async with await listener.accept() as server:
            await client.send(b"x")
            return (await server.receive()).decode()

async def attempt(call, *arguments):
    try:
        return await call(*arguments)
    except OSError as error:
        return str(error)

async def at(host):
    async with await create_tcp_listener(local_host=host) as listener:
        result = await talk(listener, host)
        return result + await talk(listener, host, "localhost" if host in ("127.0.0.1", "::1") else host)

async def everywhere(host):
    family = {True: socket.AF_INET6, False: socket.AF_INET}[":" in host]
    result = ""
    for wanted in (socket.AF_UNSPEC, family):
        async with await create_tcp_listener(family=wanted) as listener:
            result += await talk(listener, host)
    return result

async def main():
    hosts = ["127.0.0.1", "::1", "localhost", "10.77.0.1", "fd77::1", "fe80::7%lo"]
    found = {host: await attempt(at, host) for host in hosts}
    everything = {host: await attempt(everywhere, host) for host in hosts if host != "localhost"}
    print(json.dumps([found, everything]))

is_trio, is_uvloop = [sys.argv[1] == name for name in ("trio", "uvloop")]
if is_trio:
    anyio.run(main, backend="trio")
else:
    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": is_uvloop})
"""


def on_a_host(setup: list[str], directory: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command on a host of that kind, where ``localhost`` is 127.0.0.1 and ::1, as on Debian."""
    need_root("network namespaces are made")
    unshare = tool("unshare")
    tool("ip")
    (directory / "hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    steps = [*setup, f"mount --bind {directory / 'hosts'} /etc/hosts", 'exec "$@"']
    where = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return subprocess.run(
        [unshare, "--net", "--mount", "sh", "-c", " && ".join(steps), "sh", *command],
        env=environment(PATH=where),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_listens_on_every_address_that_it_has(host: str, loop_name: str, tmp_path: Path) -> None:
    setup, reachable = HOSTS[host]
    done = on_a_host(setup, tmp_path, [sys.executable, "-c", PROGRAM, loop_name])
    assert done.returncode == 0, done.stderr
    found: dict[str, Any]
    found, everything = json.loads(done.stdout)
    assert {address for address, said in found.items() if said == "xx"} == reachable
    assert {address for address, said in everything.items() if said == "xx"} == reachable - {"localhost"}
    for address, said in found.items():
        assert said == "xx" or address.partition("%")[0] in said
    has_both = {"127.0.0.1", "::1"} <= reachable
    assert ("listening on the other addresses of localhost" in done.stderr) is not has_both


def test_the_commands_do_so_too(tmp_path: Path) -> None:
    """``roket recv``, ``send`` and ``check``, where ``localhost`` has an address that the host does not have."""
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    script = """
        roket="$0 -m roket_trio"
        $roket recv localhost:4711 received &
        until ss -ltn | grep -q :4711; do sleep 0.1; done
        $roket send file localhost:4711 && wait $! && cmp file received && echo same
    """
    done = on_a_host(HOSTS["loopback alone, IPv6 off"][0], tmp_path, ["bash", "-c", script, sys.executable])
    assert done.stdout == "same\n", done.stderr
    assert "roket recv: cannot listen on [::1]:4711: Cannot assign requested address; listening on" in done.stderr
    assert "\nlistening on localhost:4711\n" in done.stderr


def test_a_server_is_checked_at_the_address_of_its_name_that_it_listens_on(tmp_path: Path) -> None:
    script = """
        $0 -c "import socket, time; s = socket.create_server(('::1', 4711), family=10); time.sleep(60)" &
        until ss -ltn | grep -q :4711; do sleep 0.1; done
        $0 -m roket_trio check --target tcp://localhost:4711 --case close/1.1 --within 0.3 --jsonl -
        kill $!
    """
    done = on_a_host(HOSTS["loopback alone"][0], tmp_path, ["bash", "-c", script, sys.executable])
    (result,) = parse_results(done.stdout.splitlines())
    assert (result.target, result.close) == ("localhost:4711", "half-open")
