"""``roket send FILE|DIRECTORY|- HOST:PORT``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..console.options import add_transfer_options
from ..console.values import remote

DESCRIPTION = """\
Send a file, a directory (as tar) or standard input (-) over TCP, and say whether the peer's TCP has acknowledged every
byte. Whoever listens may be the other end: roket recv, nc -l, socat, ncat."""
EXAMPLES = """\
roket send big.iso HOST:9000
roket send --resume big.iso HOST:9000  again after a cut
roket send photos HOST:9000            to recv --unpack
pg_dump | roket send --digest - HOST:9000"""


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("source", metavar="FILE", help="what to send: a file, a directory, or - for standard input")
    parser.add_argument("target", metavar="HOST:PORT", type=remote, help="where to: HOST:PORT, or unix:PATH")
    parser.add_argument(
        "--digest",
        action="store_true",
        help="to roket recv --digest: name, size and SHA-256 go along, and the receiver confirms that it has it all",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="as --digest, for what can be gone on with where it was interrupted: a file. The receiver needs it too",
    )
    add_transfer_options(parser, server=False)


def run(options: Namespace) -> int:
    """The exit code."""
    from ..transfers.sending import send

    return send(options)
