"""Show that a server of the tables serves what it is said to, with ``http.client`` alone: nothing of ours asks."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foreign.programs import Program

ROOT = Path(__file__).parents[2]
SECONDS = 60.0  # for whatever is waited for: on a busy machine a start of Python takes twenty


def certificate(folder: Path) -> tuple[str, str]:
    """Files of a certificate for ``localhost`` and of its key."""
    import trustme

    issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return str(cert), str(key)


def prove(program: Program, pair: tuple[str, str] | None = None) -> list[str]:
    """Start it, ask for all that it has, and end it by SIGTERM. What it says differently from its row is a line each.

    :param pair: files of a certificate for ``localhost`` and of its key, for a server of TLS
    """
    wrong: list[str] = []
    paths = {"path": "/", **program.http}
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "index.html").write_text("hello\n", encoding="utf-8")
        with serving(program, directory, pair) as port:

            def ask(method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, float]:
                return answer(port, method, path, body, program.tls)

            status, body, _ = ask("GET", paths["path"])
            if status != 200 or body.strip() != b"hello":
                wrong.append(f"GET {paths['path']}: {status}, {body[:100]!r}")
            if "large_path" in paths:
                status, body, _ = ask("GET", paths["large_path"])
                if (status, len(body)) != (200, 16 << 20):
                    wrong.append(f"GET {paths['large_path']}: {status}, {len(body)} bytes")
            if "slow_path" in paths:
                status, body, seconds = ask("GET", paths["slow_path"])
                if status != 200 or not body or seconds < 1:
                    wrong.append(f"GET {paths['slow_path']}: {status}, {len(body)} bytes in {seconds:.1f} s")
            if "upload_path" in paths:
                status, body, _ = ask("POST", paths["upload_path"], bytes(300_000))
                if status != 200 or body.strip() not in (b"300000", b"hello"):
                    wrong.append(f"POST {paths['upload_path']}: {status}, {body[:100]!r}")
            if program.refuse_path:
                status, _, _ = ask("POST", program.refuse_path, bytes(20_000))
                if status != 413:
                    wrong.append(f"POST {program.refuse_path}: {status}")
            if "failing_path" in paths:
                count = bytes_of_a_failing_answer(port, paths["failing_path"], program.tls)
                if count >= 200_000:
                    wrong.append(f"GET {paths['failing_path']}: {count} bytes, it did not fail")
    return wrong


def answer(
    port: int, method: str, path: str, body: bytes | None, tls: bool, seconds: float = SECONDS
) -> tuple[int, bytes, float]:
    began = time.monotonic()
    connection: http.client.HTTPConnection
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection("localhost", port, timeout=seconds, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path, body)
        found = connection.getresponse()
        return found.status, found.read(), time.monotonic() - began
    finally:
        connection.close()


def bytes_of_a_failing_answer(port: int, path: str, tls: bool) -> int:
    """How an answer ends whose handler has failed is for the suite to judge; that it has failed is what counts here."""
    try:
        return len(answer(port, "GET", path, None, tls, seconds=5)[1])
    except http.client.IncompleteRead as error:
        return len(error.partial)
    except (ConnectionError, TimeoutError):  # daphne leaves the connection open
        return 0


@contextmanager
def serving(program: Program, directory: str, pair: tuple[str, str] | None) -> Iterator[int]:
    """The server, until the end of the block; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {"port": str(port), "directory": directory, "cert": (pair or ("", ""))[0], "key": (pair or ("", ""))[1]}
    words = [word.format_map(places) for word in shlex.split(program.command)]
    words[0] = sys.executable if words[0] == "python" else words[0]
    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for_port(port, running)
            yield port
            running.send_signal(signal.SIGTERM)
            running.wait(SECONDS)
        except Exception as error:
            log.seek(0)
            error.add_note(f"{program.name} said: {log.read().decode(errors='replace')[-2000:]}")
            raise
        finally:
            try:
                os.killpg(running.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            running.wait()


def wait_for_port(port: int, running: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if running.poll() is not None or time.monotonic() > limit:
                raise
            time.sleep(0.05)
        else:
            return
