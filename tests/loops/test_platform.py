"""Windows is not supported, and importing a stream there says so."""

from __future__ import annotations

import subprocess
import sys

# What the streams import of others is loaded before, since that needs the system that it is on.
PROGRAM = """
import asyncio, sys
import anyio, trio, anyio.abc, trio.abc, anyio.streams.stapled, anyio.streams.tls

sys.platform = "win32"
import roket_trio

for name in sys.argv[1:]:
    try:
        getattr(roket_trio, name)
    except ImportError as error:
        print(error)
"""


def test_importing_a_stream_on_windows_fails_with_one_line_that_says_why() -> None:
    names = ["SocketStream", "TLSStream", "FileReadStream", "FileWriteStream", "connect_tcp", "serve", "copy"]
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, timeout=60, check=True
    )
    lines = found.stdout.splitlines()
    assert lines == ["roket_trio needs a POSIX system, such as Linux or macOS: it does not run on Windows"] * len(names)
