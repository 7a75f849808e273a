"""``UNIXSocketStream``: a :class:`SocketStream` that can carry descriptors too."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Collection
from io import IOBase
from typing import Any, final

import anyio.abc

from .._connection.states import DEFAULT_POLICY, ClosePolicy
from .._errors import EndOfStream
from .._loops import current_loop
from .._public import public
from .adopted import connected_socket
from .sockets import SocketStream

# SCM_MAX_FD (unix(7)).
_FDS_MOST = 253


@public
@final
class UNIXSocketStream(SocketStream, anyio.abc.UNIXSocketStream):
    """A connected UNIX stream socket: a :class:`SocketStream` that can carry descriptors too.

    UNIX sockets have neither acknowledgements nor RST. What was sent is in the peer's own queue, so a close is at least
    ``ACKED``. A send that was cut looks like the end of the stream to the peer, and is reported as ``ABORTED`` here.
    """

    @classmethod
    async def from_socket(
        cls, sock_or_fd: socket.socket | int, *, close_policy: ClosePolicy = DEFAULT_POLICY
    ) -> UNIXSocketStream:
        """Take over a connected UNIX socket, or the descriptor of one; see :meth:`SocketStream.from_socket`."""
        await current_loop().checkpoint()
        return cls._adopt(connected_socket(sock_or_fd, socket.AF_UNIX), close_policy)

    async def send_fds(self, message: bytes, fds: Collection[int | IOBase]) -> None:
        """Send descriptors with a message (unix(7), SCM_RIGHTS). They stay open here.

        :param message: at least one byte
        :param fds: descriptors, or objects with a ``fileno()``
        :raises ValueError: an empty message, no descriptors, or more than 253, which is what the kernel takes
        :raises OSError: one of them is not open; nothing was sent
        :raises BrokenResourceError: too many descriptors of this user are on their way (ETOOMANYREFS); nothing was
            sent, and it may be tried again

        The message is sent as by :meth:`SocketStream.send`; the descriptors travel with its first byte.
        """
        if not message:
            raise ValueError("message must not be empty")
        if not fds:
            raise ValueError("fds must not be empty")
        numbers = array.array("i", [fd if isinstance(fd, int) else fd.fileno() for fd in fds])
        if len(numbers) > _FDS_MOST:
            raise ValueError(f"at most {_FDS_MOST} descriptors can be sent at once, not {len(numbers)}")
        for number in numbers:
            os.fstat(number)  # sendmsg would say EBADF, as for a connection that is gone
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        sock = self._connection.sock
        await self._connection.send(message, lambda item: sock.sendmsg((item,), ancillary))

    async def receive_fds(self, msglen: int, maxfds: int) -> tuple[bytes, list[int]]:
        """Receive a message and the descriptors that came with it. The caller has to close them.

        :param msglen: at most so many bytes of message; with 0 the descriptors come alone, and no end is noticed
        :param maxfds: at most so many descriptors; more are closed by the kernel, and RuntimeError is raised
        :returns: the message and the descriptors, close-on-exec
        :raises ValueError: a negative number
        :raises RuntimeError: ancillary data of another kind came, or more descriptors than expected

        It waits, and ends, as :meth:`SocketStream.receive` does.
        """
        if not isinstance(msglen, int) or msglen < 0:
            raise ValueError("msglen must be a non-negative integer")
        if not isinstance(maxfds, int) or maxfds < 1:
            raise ValueError("maxfds must be a positive integer")
        connection = self._connection
        numbers = array.array("i")
        space = socket.CMSG_LEN(maxfds * numbers.itemsize)
        cloexec = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

        def receive(size: int) -> _Message:
            message, ancillary, flags, _ = connection.sock.recvmsg(size, space, cloexec)
            return _Message(message, ancillary, flags, at_eof=not (message or ancillary) and size > 0)

        received = await connection.receive(receive, msglen)
        if not received:
            raise EndOfStream("the peer has finished")
        message, ancillary, flags = received.data, received.ancillary, received.flags
        unexpected = bool(flags & socket.MSG_CTRUNC)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            else:
                unexpected = True
        if unexpected:
            for fd in numbers:
                os.close(fd)
            raise RuntimeError("the peer sent more descriptors than expected, or other ancillary data")
        return message, list(numbers)


@final
class _Message:
    """What ``recvmsg`` has returned, as :meth:`Connection.receive` needs it: its length is the number of bytes.

    It is false at EOF only. A message of descriptors alone has no bytes, and is true.
    """

    __slots__ = ("_at_eof", "ancillary", "data", "flags")

    def __init__(self, data: bytes, ancillary: list[Any], flags: int, *, at_eof: bool) -> None:
        self.data = data
        self.ancillary = ancillary
        self.flags = flags
        self._at_eof = at_eof

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        return not self._at_eof
