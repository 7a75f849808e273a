"""The answers in the bytes that an HTTP/1.1 server has sent, and whether each is whole. Pure; http.client parses."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any, Final, Literal, final

from .._results.case_result import Data

Framing = Literal["length", "chunked", "close"]
"""How a client knows where a body ends: Content-Length (or no body), chunks, or the end of the connection."""

_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_INTERIM: Final = re.compile(rb"HTTP/1\.[01] 1\d\d[ \r\n]")
_QUOTED: Final = 40  # bytes of what is no HTTP


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """One final answer, or the beginning of one."""

    status: int
    """0: its head is not whole, or is no HTTP."""
    is_whole: bool
    framing: Framing = "length"
    body: bytes = b""
    wanted: int | None = None
    """How many bytes its body has by Content-Length."""
    keeps: bool = False
    """Whether the connection goes on after it."""
    interims: tuple[int, ...] = ()
    """The interim answers (1xx) before it."""
    end: int = 0
    """Where it ends in what was received, if it is whole."""
    fault: str = ""
    """Why it is no HTTP."""

    def __str__(self) -> str:
        if self.fault:
            return self.fault
        if not self.status:
            return "the beginning of a head"
        size = f"{len(self.body):,}" if self.wanted is None else f"{len(self.body):,} of {self.wanted:,}"
        return f"{self.status} with {size} bytes"


def read_answers(data: bytes, methods: Sequence[str], *, has_ended: bool) -> list[Answer]:
    """The answers to requests of these methods, in their order; the last one may be a part.

    :param has_ended: whether the server's FIN came behind ``data``
    """
    source = _Source(data)
    found: list[Answer] = []
    for method in methods:
        if source.tell() == len(data):
            break
        answer = _next_answer(source, data, method, has_ended=has_ended)
        found.append(answer)
        if not answer.is_whole:
            break
    return found


def _next_answer(source: _Source, data: bytes, method: str, *, has_ended: bool) -> Answer:
    interims: list[int] = []
    while _INTERIM.match(data, source.tell()):
        end = _HEAD_END.search(data, source.tell())
        if end is None:
            return Answer(0, is_whole=False, interims=tuple(interims))
        interims.append(int(data[source.tell() + 9 : source.tell() + 12]))
        source.seek(end.end())
    start = source.tell()
    if not data.startswith(b"HTTP/1."[: len(data) - start], start):
        word = data[start : start + _QUOTED].decode("latin-1")
        return Answer(0, is_whole=False, fault=f"{word!r} is no HTTP/1.x answer")
    if _HEAD_END.search(data, start) is None:
        return Answer(0, is_whole=False, interims=tuple(interims))
    response = HTTPResponse(source, method=method)  # type: ignore[arg-type]  # it has makefile(), which is all that is used
    try:
        response.begin()
        wanted = response.length
        is_chunked = bool(response.chunked)
        body, is_whole = _body(response)
    except (HTTPException, ValueError) as error:
        return Answer(0, is_whole=False, fault=f"no HTTP/1.x answer: {error!r}")
    framing: Framing = "chunked" if is_chunked else "close" if wanted is None else "length"
    if framing == "close":
        is_whole = has_ended
    return Answer(
        response.status,
        is_whole,
        framing,
        body,
        None if is_chunked else wanted,
        not response.will_close,
        tuple(interims),
        source.tell(),
    )


def _body(response: HTTPResponse) -> tuple[bytes, bool]:
    try:
        return response.read(), True
    except IncompleteRead as cut:
        return cut.partial, False


@final
class _Source(io.BytesIO):
    """Bytes that http.client takes for a socket, and its file; it closes that file after each answer."""

    def makefile(self, *args: Any) -> _Source:
        return self

    def close(self) -> None:
        pass


def judge_answers(answers: Sequence[Answer], wanted: int, *, has_ended: bool) -> tuple[Data, str]:
    """Whether as many whole answers came as were wanted, and how it is said.

    :param has_ended: whether the server's side has ended, by FIN or RST
    """
    whole = [answer for answer in answers if answer.is_whole]
    if len(whole) == wanted:
        return "complete", _counted(whole)
    part = next((answer for answer in answers if not answer.is_whole), None)
    if part is not None and part.fault:
        return "corrupt", part.fault
    count = f"{len(whole)} of {wanted} answers came" if wanted > 1 else "no answer came"
    if part is not None:
        count = f"{count}, and a part of one ({part})" if wanted > 1 else f"a part of the answer came ({part})"
    return ("truncated", count) if has_ended else ("hung", f"{count}, and then nothing")


def _counted(whole: Sequence[Answer]) -> str:
    if len(whole) == 1:
        return f"the whole answer came ({whole[0]})"
    return f"all {len(whole)} answers came" if whole else "no answer was to come"
