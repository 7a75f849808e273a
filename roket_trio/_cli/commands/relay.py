"""``roket relay [BIND:]PORT HOST:PORT``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..console.options import add_drain
from ..console.values import count, local, remote, seconds

DESCRIPTION = """\
Forward connections: each one that comes to PORT is joined to a new one to TARGET. A half-close is passed on as it is,
and a reset stays a reset. Listens on 127.0.0.1 unless told otherwise ('*:PORT' is everywhere). SIGTERM or Ctrl-C ends
it when the connections have ended or --drain is over; a second one at once."""
EXAMPLES = """\
roket relay 8080 example.org:80
roket relay '*:5432' unix:/run/postgresql/.s.PGSQL.5432"""


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("where", metavar="[BIND:]PORT", type=local, help="where to listen: [BIND:]PORT, or unix:PATH")
    parser.add_argument("target", metavar="TARGET", type=remote, help="where to connect: HOST:PORT, or unix:PATH")
    parser.add_argument(
        "--max-connections", type=count, metavar="N", help="more than N wait in the listen queue (default: no limit)"
    )
    parser.add_argument(
        "--connect-timeout", type=seconds, default=10.0, metavar="SECONDS", help="for the target (default: 10)"
    )
    parser.add_argument(
        "--idle-timeout", type=seconds, metavar="SECONDS", help="end a connection on which nothing moves for so long"
    )
    add_drain(parser)


def run(options: Namespace) -> int:
    """The exit code."""
    from ..servers.relaying import run_relay

    return run_relay(options)
