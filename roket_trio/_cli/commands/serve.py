"""``roket serve [DIRECTORY]``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..console.options import add_server_options, add_tls
from ..console.values import LOCALHOST, Address, local_address, rate

DESCRIPTION = """\
Serve a directory over HTTP/1.1, with ranges, conditional requests and sendfile. Nothing outside the directory is
served, and no name that begins with a dot. The command listens on 127.0.0.1, unless BIND says otherwise ('*:PORT' is
every interface). SIGTERM or Ctrl-C stops new connections; the command ends when the answers under way are sent, or
--drain is over. A second signal ends it at once. It needs the extra roket-trio[cli]."""
EXAMPLES = """\
roket serve
roket serve --bind '*:8080' public"""
_PORT = 8000


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", default=".", help="the directory to serve (default: the current one)"
    )
    parser.add_argument(
        "--bind",
        metavar="[BIND:]PORT",
        type=local_address,
        default=Address(LOCALHOST, _PORT),
        help=f"the address to listen on: [BIND:]PORT, unix:PATH, or systemd:[NAME] (default: {_PORT})",
    )
    parser.add_argument(
        "--no-listing", action="store_true", help="do not list the files of a directory that has no index.html"
    )
    parser.add_argument(
        "--min-rate",
        type=rate,
        default=1024.0,
        metavar="RATE",
        help="reset a client that takes less than RATE bytes of its answer per second; it may pause for 30 seconds"
        " (default: 1K)",
    )
    add_server_options(parser, idle_seconds=60.0)
    add_tls(parser, server=True)


def run(options: Namespace) -> int:
    """Serve until a signal arrives; returns the exit code."""
    from ..servers.serving import run_server

    return run_server(options)
