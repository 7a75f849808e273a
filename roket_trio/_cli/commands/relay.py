"""``roket relay [BIND:]PORT HOST:PORT``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..console.options import add_listen_address, add_server_options
from ..console.values import remote_address, seconds

DESCRIPTION = """\
Forward connections. For each connection to PORT the command opens one to TARGET, and moves bytes both ways. It passes a
half-close on as a half-close, and a reset as a reset. It listens on 127.0.0.1, unless BIND says otherwise ('*:PORT' is
every interface). SIGTERM or Ctrl-C stops new connections; the command ends when the open ones have ended, or --drain is
over. A second signal ends it at once."""
EXAMPLES = """\
roket relay 8080 example.org:80
roket relay '*:5432' unix:/run/postgresql/.s.PGSQL.5432"""

_IDLE_SECONDS = 600.0  # as nginx's proxy_timeout


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_listen_address(parser)
    parser.add_argument(
        "target", metavar="TARGET", type=remote_address, help="the address to connect to: HOST:PORT, or unix:PATH"
    )
    parser.add_argument(
        "--connect-timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="give up when connecting to TARGET takes longer (default: 10)",
    )
    add_server_options(parser, idle_seconds=_IDLE_SECONDS)


def run(options: Namespace) -> int:
    """Forward connections until a signal arrives; returns the exit code."""
    from ..servers.relaying import run_relay

    return run_relay(options)
