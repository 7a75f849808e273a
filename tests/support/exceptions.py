"""One of each exception, and what worker processes do with them. They load this module alone."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any, NoReturn

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    ConnectionFailed,
    EndOfStream,
    PeerGoneError,
    TruncatedError,
)
from roket_trio._cli.console.exit_codes import CommandError, ExitCode
from roket_trio._errors import NameResolutionFailed, broken, connection_failed
from roket_trio.testing import (
    BrokenRuleError,
    LingeringSocketsError,
    NotAvailableError,
    NotObservedError,
    ScriptOverError,
    UncleanCloseError,
    stream_checks,
    take_census,
)

NUMBERS = (errno.ECONNREFUSED, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENETUNREACH, errno.ETIMEDOUT)


class CutError(BrokenResourceError):
    """A user's own, with a constructor that takes something else than a message."""

    def __init__(self, *, item: int, of: int) -> None:
        super().__init__(f"item {item} of {of} was cut")
        self.item = item


class NoRouteError(ConnectionFailed):
    """A user's own, whose constructor calls that of OSError."""

    def __init__(self, *, code: int, via: str) -> None:
        super().__init__(code, f"no route by {via}")
        self.via = via


class LateError(BrokenResourceError):
    """A user's own, which is made with something else than a message."""

    def __new__(cls, *, seconds: float) -> LateError:
        return super().__new__(cls)

    def __init__(self, *, seconds: float) -> None:
        super().__init__(f"late by {seconds} s")
        self.seconds = seconds


def raise_error(error: BaseException) -> NoReturn:
    raise error


def with_fields(error: Any, **fields: object) -> BaseException:
    for name, value in fields.items():
        setattr(error, name, value)
    assert isinstance(error, BaseException)
    return error


def examples() -> list[BaseException]:
    """One of each exception, or several where there are kinds of it."""
    everything = [
        TruncatedError("the file ends", bytes_moved=7, position=9, path="/some/file"),
        TruncatedError("the stream ends", bytes_moved=0),
        ClosedResourceError("closed"),
        ClosedResourceError(),
        BrokenResourceError("reset"),
        BrokenResourceError(),
        BrokenResourceError("reset", b"by", 3),
        broken("sending failed", ConnectionResetError(errno.ECONNRESET, "reset")),
        with_fields(BrokenResourceError("the sink failed"), errno=28, side="sink", bytes_moved=5, bytes_lost=2),
        BusyResourceError("reading from"),
        PeerGoneError("gone"),
        EndOfStream("the end"),
        ConnectionFailed(),
        ConnectionFailed("failed"),
        ConnectionFailed(errno.ECONNREFUSED, "refused"),
        ConnectionFailed(errno.ENOENT, "missing", "/some/socket"),
        with_fields(ConnectionFailed("failed"), errno=errno.ECONNREFUSED),
        connection_failed("several reasons", None),
        *(connection_failed(f"failed by {code}", code) for code in NUMBERS),
        NameResolutionFailed(socket.EAI_NONAME, "host: unknown"),
        CutError(item=3, of=5),
        LateError(seconds=0.5),
        NoRouteError(code=errno.ENETUNREACH, via="here"),
        CommandError(ExitCode.CUT, "cut"),
        *(BrokenRuleError(check, "anyio", "it hung") for check in stream_checks("anyio")),
        LingeringSocketsError({}, take_census(), 0.5),
        NotAvailableError("not here"),
        NotObservedError("not seen"),
        ScriptOverError("over"),
        UncleanCloseError("unclean"),
    ]
    causes = (
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        ExceptionGroup("several", [OSError(errno.ENETUNREACH, "unreachable"), UnicodeError("no name")]),
        ssl.SSLCertVerificationError(1, "not trusted"),
        TruncatedError("short", bytes_moved=1),
    )
    for cause in causes:
        everything.append(with_fields(BrokenResourceError("caused"), __cause__=cause))
        everything.append(with_fields(connection_failed("caused", errno.ECONNREFUSED), __cause__=cause))
    noted = TruncatedError("noted", bytes_moved=1)
    noted.add_note("in the second file")
    return [*everything, noted]


def content(error: BaseException) -> dict[str, object]:
    """All that a user can see of an exception, its traceback and context apart."""
    fields = ("errno", "strerror", "filename", "side", "bytes_moved", "bytes_lost", "position", "path")
    return {
        "class": type(error),
        "message": str(error),
        "repr": repr(error),
        "args": error.args,
        "attributes": vars(error),
        "cause": repr(error.__cause__),
        **{name: getattr(error, name, None) for name in fields},
    }
