"""The options that subcommands share. Imports no event loop, so that help and usage errors are cheap."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from .command_status import CommandStatus
from .values import count, local_address, rate, seconds

# How many connections a server takes from one address by default. From all addresses together it takes twice as many,
# so that no single client keeps the others out. A thousand at once from one machine are still served.
_PER_ADDRESS = 1000

PROGRESS = ("auto", "bar", "plain", "json", "none")


def status_for(command: str, options: Namespace) -> CommandStatus:
    """The status of a command that has the options for transfers."""
    return CommandStatus(command, options.quiet, options.json)


def add_transfer_options(parser: ArgumentParser, *, server: bool) -> None:
    """Add the options of ``send`` and ``recv``.

    :param server: whether the command listens, and so is the server for TLS
    """
    parser.add_argument(
        "--rate", type=rate, metavar="RATE", help="move at most RATE bytes per second, like 500K or 10M (1K is 1024)"
    )
    parser.add_argument(
        "--connect-timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="give up when connecting, or the start of TLS or --digest, takes longer (default: 10)",
    )
    parser.add_argument(
        "--idle-timeout",
        type=seconds,
        metavar="SECONDS",
        help="give up when no byte has moved for so long (default: never, but a peer that vanishes from the network is"
        " noticed after a minute)",
    )
    parser.add_argument(
        "--progress",
        choices=PROGRESS,
        default="auto",
        help="show progress on standard error as a bar, a plain line every second, or a line of JSON every second"
        " (default: a bar on a terminal, otherwise none)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON, on standard output unless the data goes there"
    )
    add_quiet(parser)
    add_tls(parser, server=server)


def add_quiet(parser: ArgumentParser) -> None:
    """Add ``--quiet``."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def add_tls(parser: ArgumentParser, *, server: bool) -> None:
    """Add ``--tls``, ``--cafile``, ``--cert`` and ``--key``; for a client ``--tls-name`` too."""
    group = parser.add_argument_group("TLS")
    if server:
        group.add_argument("--tls", action="store_true", help="use TLS; --cert alone means that too")
        group.add_argument("--cert", metavar="PEM", help="use TLS with the certificate chain in this file")
        group.add_argument(
            "--cafile",
            metavar="PEM",
            help="demand a client certificate that one of the certificates in this file signed",
        )
    else:
        group.add_argument("--tls", action="store_true", help="use TLS, and check the server's certificate")
        group.add_argument("--cafile", metavar="PEM", help="trust these certificates instead of the system's")
        group.add_argument("--tls-name", metavar="NAME", help="expect a certificate for NAME (default: HOST)")
        group.add_argument("--cert", metavar="PEM", help="show the server the certificate in this file")
    group.add_argument("--key", metavar="PEM", help="the file of the certificate's key (default: the file of --cert)")


def add_listen_address(parser: ArgumentParser) -> None:
    """Add the address to listen on."""
    parser.add_argument(
        "address",
        metavar="[BIND:]PORT",
        type=local_address,
        help="the address to listen on: [BIND:]PORT, unix:PATH, or systemd:[NAME]",
    )


def add_server_options(parser: ArgumentParser, *, idle_seconds: float) -> None:
    """Add the options of ``relay`` and ``serve``.

    :param idle_seconds: for how long a connection may be idle, by default
    """
    parser.add_argument(
        "--max-connections",
        type=count,
        default=2 * _PER_ADDRESS,
        metavar="N",
        help=f"accept at most N connections at once; more wait in the listen queue (default: {2 * _PER_ADDRESS})",
    )
    parser.add_argument(
        "--max-per-address",
        type=count,
        default=_PER_ADDRESS,
        metavar="N",
        help="refuse more than N connections at once from one address, or from one /64 of IPv6"
        f" (default: {_PER_ADDRESS})",
    )
    parser.add_argument(
        "--idle-timeout",
        type=seconds,
        default=idle_seconds,
        metavar="SECONDS",
        help=f"end a connection on which no byte has moved for so long (default: {idle_seconds:g})",
    )
    parser.add_argument(
        "--drain",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long open connections may go on after SIGTERM or Ctrl-C (default: 10)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a line of JSON for each connection or request, on standard output"
    )
    add_quiet(parser)
