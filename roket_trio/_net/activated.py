"""Listening sockets that a supervisor has opened for this process: systemd's socket activation, sd_listen_fds(3)."""

from __future__ import annotations

import os
from typing import NamedTuple

from .._connection.states import DEFAULT_POLICY, ClosePolicy
from .._loops import current_loop
from .._public import public
from .listener import SocketListener

# sd_listen_fds(3): SD_LISTEN_FDS_START.
_FIRST_DESCRIPTOR = 3

# The variables say whose sockets they are (LISTEN_PID), how many there are, and how they are called.
_VARIABLES = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")


class _Passed(NamedTuple):
    fd: int
    name: str


# What was passed, and no call has taken.
_left: list[_Passed] = []


@public
async def activated_listeners(
    name: str | None = None, *, close_policy: ClosePolicy = DEFAULT_POLICY
) -> list[SocketListener]:
    """Take over the listening sockets that systemd, or another supervisor, has opened for this process.

    A server that is started like this needs no right to its port. It loses no connection while it is restarted: they
    wait in the queue, which the supervisor keeps open.

    The variables are removed from the environment at the first call, and the descriptors are made non-inheritable, so
    that programs that are started later do not take them for theirs.

    :param name: only the sockets of this name (``FileDescriptorName=`` of the socket unit, by default the unit's own
        name); all when omitted. What is not taken waits for another call
    :param close_policy: how accepted streams will close
    :returns: a listener for each, in systemd's order; none if the process was not started with any, or an earlier call
        has taken them. For :func:`serve`, several are put into AnyIO's ``MultiListener``
    :raises ValueError: the variables make no sense; a socket is not a listening TCP or UNIX socket (a unit with
        ``Accept=yes`` passes connections). Sockets that were taken before it are closed; it and those after it are left

    Cancellation: no socket was taken.
    """
    await current_loop().checkpoint()
    _left.extend(_passed())
    listeners: list[SocketListener] = []
    try:
        for passed in tuple(_left):
            if name in (None, passed.name):
                listeners.append(_listener(passed, close_policy))
                _left.remove(passed)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listener(passed: _Passed, close_policy: ClosePolicy) -> SocketListener:
    try:
        return SocketListener._from_socket(passed.fd, close_policy, must_listen=True)
    except ValueError as error:
        raise ValueError(f"descriptor {passed.fd}, which was passed as {passed.name!r}: {error}") from error


def _passed() -> list[_Passed]:
    """Take what was passed out of the environment.

    :raises ValueError: the variables make no sense
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):  # none, or those of the process that has started this one
        return []
    _, _, count, names = (os.environ.pop(variable, "") for variable in _VARIABLES)
    if not count.isdecimal():
        raise ValueError(f"LISTEN_FDS is no number: {count!r}")
    descriptors = range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
    for fd in descriptors:
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            raise ValueError(f"LISTEN_FDS is {count}, and descriptor {fd} is not open") from error
    named = names.split(":") if names else []
    if named and len(named) != len(descriptors):
        raise ValueError(f"LISTEN_FDNAMES has {len(named)} names for {len(descriptors)} descriptors")
    return [_Passed(fd, name) for fd, name in zip(descriptors, named or ["unknown"] * len(descriptors), strict=True)]
