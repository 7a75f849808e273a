"""``TLSWire``: TLS on the wire of a script, which may end the session well or badly."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NoReturn, final

from .payload import PayloadCheck
from .wire import NotAvailableError, ScriptOverError, Wire

_AT_ONCE: Final = 1 << 16
_OPENSSL_SECONDS: Final = 30


@final
class TLSWire:
    """A TLS session over a :class:`Wire`. Its steps raise what those of a wire raise, and so does broken TLS."""

    def __init__(self, wire: Wire, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.wire: Final = wire
        self.check: Final = PayloadCheck()
        """What arrived, decrypted, compared with the payload."""
        self.kept: Final = bytearray()
        """The first bytes of it, up to as many as the wire keeps."""
        self.saw_close_notify = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=None if server_side else "localhost",
        )

    def handshake(self, *, seconds: float) -> None:
        """Do the handshake. A server of TLS 1.3 sends session tickets with it, which the program may never read."""
        until = time.monotonic() + seconds
        while True:
            try:
                self._session.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                if not self._pull(until):
                    self._fail("the handshake was not finished")
            except ssl.SSLError as error:
                self._fail(str(error))
        self._flush()
        self.wire.timeline.note("note", detail=f"{self._session.version()}")

    def send(self, data: bytes, *, seconds: float | None = None) -> bool:
        """Encrypt ``data``, and give all of it to the kernel.

        :param seconds: give up after so long; the session can send nothing more then
        :returns: whether the kernel took all of it
        """
        self._session.write(data)
        encrypted = self._outgoing.read()
        return self.wire.send(encrypted, seconds=seconds) == len(encrypted)

    def send_close_notify(self) -> None:
        """Say that nothing more will be sent; the wire stays open."""
        try:
            self._session.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):  # the other side has not said it yet
            pass
        except ssl.SSLError as error:
            self._fail(str(error))
        self._flush()
        self.wire.timeline.note("note", detail="close_notify sent")

    def receive(self, count: int | None = None, *, seconds: float) -> int:
        """Receive ``count`` bytes; without a count, receive up to close_notify.

        :param seconds: give up after so long
        :returns: how many bytes were received
        """
        until = time.monotonic() + seconds
        received = 0
        while count is None or received < count:
            left = until - time.monotonic()
            got = self.receive_some(_AT_ONCE if count is None else min(_AT_ONCE, count - received), seconds=left)
            if not got:
                break
            received += got
        return received

    def receive_some(self, count: int, *, seconds: float) -> int:
        """Wait for data, and receive what there is, at most ``count`` bytes.

        :returns: how many bytes came; 0 at close_notify, at the program's FIN, or when the time is over
        """
        until = time.monotonic() + seconds
        chunk = b""
        while not self.saw_close_notify:
            try:
                chunk = self._session.read(count)
            except ssl.SSLWantReadError:
                if not self._pull(until):
                    return 0
                continue
            except ssl.SSLZeroReturnError:
                pass
            except ssl.SSLError as error:
                self._fail(str(error))
            if chunk:
                self.check.feed(chunk)
                self.kept.extend(chunk[: max(0, self.wire.keep_bytes - len(self.kept))])
                return len(chunk)
            self.saw_close_notify = True
            self.wire.timeline.note("note", detail="close_notify seen")
        return 0

    def _fail(self, why: str) -> NoReturn:
        self.wire.timeline.note("failed", detail=f"TLS: {why}")
        raise ScriptOverError(why)

    def _flush(self) -> None:
        self.wire.send(self._outgoing.read())

    def _pull(self, until: float) -> bool:
        """Receive what comes on the wire; returns whether anything came in time."""
        if not self.wire.wait_readable(until - time.monotonic()):
            return False
        chunk = self.wire.receive_chunk()
        self._incoming.write(chunk)
        return bool(chunk)


@cache
def certificate() -> bytes:
    """A self-signed certificate for ``localhost`` and 127.0.0.1, with its key, in PEM. ``openssl`` makes it, once.

    :raises NotAvailableError: there is no ``openssl``, or it fails
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise NotAvailableError("TLS: no certificate can be made here, for there is no openssl")
    with TemporaryDirectory() as folder:
        files = Path(folder, "key.pem"), Path(folder, "cert.pem")
        command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(files[0]), "-out", str(files[1])]
        command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_OPENSSL_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise NotAvailableError(f"TLS: no certificate can be made here: {error}") from error
        return b"".join(file.read_bytes() for file in files)


def server_context(pem: Path) -> ssl.SSLContext:
    """The context of a peer that serves TLS; ``pem`` has certificate and key."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context


def client_context(pem: Path | None) -> ssl.SSLContext:
    """The context of a peer that connects, and trusts that certificate; with ``None``, any."""
    if pem is None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    return ssl.create_default_context(cafile=str(pem))
