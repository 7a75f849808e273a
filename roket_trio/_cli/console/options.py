"""The options that commands share. Needs no event loop: help and usage errors are cheap."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from .command_status import Tally
from .values import rate, seconds

PROGRESS = ("auto", "bar", "plain", "json", "none")


def add_transfer_options(parser: ArgumentParser, *, server: bool) -> None:
    """The options of both."""
    parser.add_argument("--rate", type=rate, metavar="RATE", help="at most so many bytes a second: 500K, 10M")
    add_time_limits(parser)
    parser.add_argument(
        "--progress",
        choices=PROGRESS,
        default="auto",
        help="how to show progress, on standard error: a bar, a line a second, JSON a second (default: a bar on a"
        " terminal, otherwise none)",
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON, on standard output if that is free")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    add_tls(parser, server=server)


def tally_for(command: str, options: Namespace) -> Tally:
    """What the command keeps."""
    return Tally(command, options.quiet, options.json)


def add_time_limits(parser: ArgumentParser) -> None:
    """``--connect-timeout`` and ``--idle-timeout``."""
    parser.add_argument(
        "--connect-timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long connecting, and the first words of TLS or --digest, may take (default: 10)",
    )
    parser.add_argument(
        "--idle-timeout",
        type=seconds,
        metavar="SECONDS",
        help="give up when nothing has moved for so long (default: never, but a peer that vanishes from the network is"
        " noticed after a minute)",
    )


def add_tls(parser: ArgumentParser, *, server: bool) -> None:
    """``--tls``, ``--cafile``, ``--cert``, ``--key``."""
    group = parser.add_argument_group("TLS")
    if server:
        group.add_argument("--tls", action="store_true", help="speak TLS; --cert alone says so too")
        group.add_argument("--cert", metavar="PEM", help="speak TLS, with this certificate (chain), and the key in it")
        group.add_argument("--key", metavar="PEM", help="the key, if it is in a file of its own")
        group.add_argument("--cafile", metavar="PEM", help="demand a certificate of the client, signed by one of these")
    else:
        group.add_argument("--tls", action="store_true", help="speak TLS, and check the server's certificate")
        group.add_argument("--cafile", metavar="PEM", help="trust these certificates instead of the system's")
        group.add_argument("--tls-name", metavar="NAME", help="the name that the certificate must be for, if not HOST")
        group.add_argument("--cert", metavar="PEM", help="show this certificate (and the key in it) to the server")
        group.add_argument("--key", metavar="PEM", help="the key, if it is in a file of its own")


def add_drain(parser: ArgumentParser) -> None:
    """What ends a server, and what it says."""
    parser.add_argument(
        "--drain",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long connections may go on after SIGTERM or Ctrl-C (default: 10)",
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each, on standard output")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
