"""The files that a program under test finds: certificate and key, and a directory for it to serve."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, final

from .._peers.payload import payload
from .._peers.tls_wire import certificate
from .programs import Target

LARGE_BYTES: Final = 16 << 20  # more than two kernels' buffers hold (tcp_wmem and tcp_rmem: 4 and 6 MiB)
LARGE_FILE: Final = "large.bin"
_PIECES: Final = 256
_INDEX: Final = "index.html"
_KEY: Final = b"-----BEGIN PRIVATE KEY-----"
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"


@final
class ProgramFiles:
    """Files for one program, which are removed with the stack."""

    def __init__(self, stack: ExitStack, target: Target, *, needs_tls: bool, wants_large: bool) -> None:
        """Write them, as far as they are needed."""
        self.pem: Path | None = None
        """Certificate and key in one file; ``None``: it needs none."""
        self.places: Final[dict[str, object]] = {}
        """What is to be put in the places of the command: ``cafile``, ``cert``, ``key``, ``pem`` and ``directory``."""
        if not needs_tls and not target.has_place("directory"):
            return
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="roket-")))
        if needs_tls:
            self._write_certificate(folder)
        if target.has_place("directory"):
            served = folder / "served"
            served.mkdir()
            piece = payload(LARGE_BYTES // _PIECES)
            (served / _INDEX).write_bytes(piece[:1000])
            if wants_large:
                with open(served / LARGE_FILE, "wb") as file:
                    for _ in range(_PIECES):
                        file.write(piece)
            self.places["directory"] = served

    def _write_certificate(self, folder: Path) -> None:
        text = certificate()
        self.pem = folder / "localhost.pem"
        key, cert = folder / "key.pem", folder / "cert.pem"
        self.pem.write_bytes(text)
        at = text.index(_CERTIFICATE)
        key.write_bytes(text[text.index(_KEY) : at])
        cert.write_bytes(text[at:])
        self.places.update(cafile=cert, cert=cert, key=key, pem=self.pem)
