"""``roket recv [BIND:]PORT FILE|DIRECTORY|-``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..console.options import add_listen_address, add_transfer_options

DESCRIPTION = """\
Accept one connection and write what arrives to a file. The file gets its name when all of it is on the disk. The sender
can be roket send, nc -N, socat or ncat. TCP alone cannot tell a sender that was killed from one that is done; --digest
at both ends can. The command listens on 127.0.0.1, unless BIND says otherwise ('*:PORT' is every interface). It prints
the address, so PORT may be 0, which takes a free port."""
EXAMPLES = """\
roket recv 9000 big.iso
roket recv '*:9000' big.iso      from other machines
roket recv --resume '*:9000' .   under the sender's name
roket recv --unpack 9000 photos  a directory
roket recv 9000 - | zcat"""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_listen_address(parser)
    parser.add_argument(
        "destination",
        metavar="FILE",
        help="the file to write, - for standard output, or a directory for a file that brings its own name",
    )
    parser.add_argument("--force", action="store_true", help="replace a file that exists already")
    parser.add_argument(
        "--unpack",
        action="store_true",
        help="unpack the tar archive that arrives into the directory FILE",
    )
    parser.add_argument(
        "--digest",
        action="store_true",
        help="check the SHA-256 that roket send --digest sends, and confirm; if FILE is a directory, the file in it"
        " gets the sender's name",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="do as --digest does, keep an interrupted transfer as FILE.part, and continue it the next time",
    )
    add_transfer_options(parser, server=True)


def run(options: Namespace) -> int:
    """Receive; returns the exit code."""
    from ..transfers.receiving import receive

    return receive(options)
