"""What is still open when the interpreter ends is closed without a word but the warning, though modules are emptied."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Modules are emptied in the order of their import, the last first: what os keeps goes when the module that it came from
# has no name any more, and what sys keeps goes last of all, with nobody left to print an error.
PROGRAM = """
import socket, sys
import anyio
import roket_trio
from roket_trio.testing._leaks.origins import origin_of, watch_origins

watch_origins()
how, directory, *loops = sys.argv[1:]
kept, origins = [], []
if how != "cycle":
    __import__(how).kept = kept

async def main(name):
    ours, peer = socket.socketpair()
    kept.append(await roket_trio.UNIXSocketStream.from_socket(ours))
    ours, peer = tcp_pair()
    peer.sendall(b"unread")
    kept.append(await roket_trio.SocketStream.from_socket(ours))
    listener = await roket_trio.create_tcp_listener(local_host="127.0.0.1")
    kept.extend(getattr(listener, "listeners", [listener]))
    kept.append(await roket_trio.FileWriteStream.from_path(f"{directory}/{name}", atomic=True))
    kept.append(await roket_trio.FileReadStream.from_path(sys.executable))
    await kept[-2].send(b"part")
    await kept[-1].receive()

def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        kept.append(peer)
        return server.accept()[0], peer

for loop in loops:
    backend = {"backend": "trio"} if loop == "trio" else {
        "backend": "asyncio", "backend_options": {"use_uvloop": loop == "uvloop"}}
    anyio.run(main, loop, **backend)
if how == "cycle":
    kept.append(kept)  # found by the last collection
for peer in kept:
    if isinstance(peer, socket.socket):
        origins.append(origin_of(peer.fileno()))
"""


@pytest.mark.parametrize("how", ["cycle", "os", "sys"])
@pytest.mark.parametrize("warn", ["default", "error"])
def test_what_is_left_open_ends_quietly(tmp_path: Path, how: str, warn: str) -> None:
    loops = ["trio", "asyncio"] if sys.platform == "win32" else ["trio", "asyncio", "uvloop"]
    done = subprocess.run(
        [sys.executable, "-W", f"{warn}::ResourceWarning", "-c", PROGRAM, how, str(tmp_path), *loops],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if warn == "default":
        assert "Exception ignored" not in done.stderr
    assert not re.search(r"^\w+Error\b", done.stderr, re.MULTILINE), done.stderr
    assert not list(tmp_path.iterdir()), "an atomic file that was not finished leaves nothing behind"
