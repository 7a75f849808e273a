"""``roket recv [BIND:]PORT FILE|DIRECTORY|-``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..console.options import add_transfer_options
from ..console.values import local

DESCRIPTION = """\
Take one connection and write what comes to a file, which gets its name when all of it is on the disk. Whoever sends may
be the other end: roket send, nc -N, socat, ncat. TCP alone cannot tell a sender that was killed from one that is done:
--digest, at both ends, can. Listens on 127.0.0.1 unless told otherwise ('*:PORT' is everywhere), and says where, so
that port 0 may be asked for."""
EXAMPLES = """\
roket recv 9000 big.iso
roket recv '*:9000' big.iso      from other machines
roket recv --resume '*:9000' .   the sender names it
roket recv --unpack 9000 photos  a directory
roket recv 9000 - | zcat"""


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("where", metavar="[BIND:]PORT", type=local, help="where to listen: [BIND:]PORT, or unix:PATH")
    parser.add_argument(
        "target",
        metavar="FILE",
        help="what to write: a file, - for standard output, or a directory for what brings its own name",
    )
    parser.add_argument("--force", action="store_true", help="replace what is there already")
    parser.add_argument("--unpack", action="store_true", help="what comes is tar: unpack it in the directory FILE")
    parser.add_argument(
        "--digest",
        action="store_true",
        help="from roket send --digest: check the SHA-256, and confirm; in a directory FILE the name is the sender's",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="as --digest; what is interrupted stays as FILE.part, and is gone on with the next time",
    )
    add_transfer_options(parser, server=True)


def run(options: Namespace) -> int:
    """The exit code."""
    from ..transfers.receiving import receive

    return receive(options)
