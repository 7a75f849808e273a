"""``roket send FILE|DIRECTORY|- HOST:PORT``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..console.options import add_transfer_options
from ..console.values import remote_address

DESCRIPTION = """\
Send a file, a directory (as tar) or standard input (-) over TCP, and say whether the peer's TCP has acknowledged every
byte. The receiver can be roket recv, nc -l, socat or ncat."""
EXAMPLES = """\
roket send big.iso HOST:9000
roket send --resume big.iso HOST:9000  again after a cut
roket send photos HOST:9000            to recv --unpack
pg_dump | roket send --digest - HOST:9000"""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", metavar="FILE", help="a file or a directory to send, or - for standard input")
    parser.add_argument(
        "address", metavar="HOST:PORT", type=remote_address, help="the address to connect to: HOST:PORT, or unix:PATH"
    )
    parser.add_argument(
        "--digest",
        action="store_true",
        help="send the name, the size and the SHA-256 too, and wait until the receiver, roket recv --digest, confirms"
        " that it has everything",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="do as --digest does, and continue where an earlier transfer of this file was interrupted; the receiver"
        " needs --resume too",
    )
    add_transfer_options(parser, server=False)


def run(options: Namespace) -> int:
    """Send; returns the exit code."""
    from ..transfers.sending import send

    return send(options)
