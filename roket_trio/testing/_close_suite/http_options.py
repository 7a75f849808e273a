"""``HttpOptions``: what of an HTTP server or client can be tried. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from ..._public import public


@public
@final
@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What the peers of an HTTP program ask for. What is ``None`` is not known, and what needs it may not be judged."""

    path: str = "/"
    """A path that answers GET."""
    upload_path: str | None = None
    """A path that takes a body with POST; ``None``: :attr:`path` is tried."""
    large_path: str | None = None
    """A path that answers GET with some MiB; ``None``: ``/large.bin`` if the command has a place for the directory that
    it serves, and otherwise :attr:`path` is tried."""
    slow_path: str | None = None
    """A path whose answer to GET takes a second or more."""
    failing_path: str | None = None
    """A path whose handler fails when a part of the answer to GET is on its way."""
    tls: bool = False
    """Whether the program speaks TLS."""
