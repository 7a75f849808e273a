"""``Conversation``: a client's end of one HTTP connection, plain or TLS, for the scripts of the cases."""

from __future__ import annotations

from time import monotonic
from typing import Final, final

from .._close_suite.context import CaseContext
from .._peers.wire import Wire
from .._results.case_result import Data
from .answers import Answer, judge_answers, read_answers
from .channel import Channel

_AT_ONCE: Final = 1 << 16
_MOMENT: Final = 0.001


@final
class Conversation(Channel):
    """What one client asks on one connection, and what it is answered.

    Its steps raise :class:`.ScriptOverError` when the connection is gone, as a wire's do. What had arrived by then
    still counts.
    """

    def __init__(self, wire: Wire, context: CaseContext, *, judges: bool = True) -> None:
        """Begin it, with the handshake where the program speaks TLS.

        :param judges: whether the answers decide about the data of this connection
        """
        super().__init__(wire, context)
        self._methods: list[str] = []
        if judges:
            context.judge_by(wire, self.judge)
        if context.target.http.tls:
            self.begin_tls()

    # --- requests ----------------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """The value of the Host field."""
        host, port = self.context.target.host, self.wire.remote
        name = f"[{host}]" if ":" in host else host
        return f"{name}:{port[1]}" if isinstance(port, tuple) else name

    def request(self, method: str, path: str, *fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
        """The bytes of a request. It is expected to be answered once it is given to :meth:`ask`."""
        lines = [f"{method} {path} HTTP/{version}", f"Host: {self.host}", "User-Agent: roket-check", "Accept: */*"]
        if body and not any(field.lower().startswith(("content-length:", "transfer-encoding:")) for field in fields):
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, *fields, "", ""]).encode("latin-1") + body

    def ask(self, *requests: bytes) -> None:
        """Send requests, in one piece, and expect an answer to each."""
        self.expect(*requests)
        self.send(b"".join(requests))

    def expect(self, *requests: bytes) -> None:
        """Expect an answer to each of these requests, which are sent by other steps."""
        self._methods += [request.partition(b" ")[0].decode("latin-1") for request in requests]

    def get(self, *fields: str, path: str | None = None) -> None:
        """Ask for a path; without one, for the path that answers."""
        self.ask(self.request("GET", self.context.target.http.path if path is None else path, *fields))

    # --- answers -----------------------------------------------------------------------------------------------------

    @property
    def answers(self) -> list[Answer]:
        """The answers so far; the last one may be a part."""
        return read_answers(self.received, self._methods, has_ended=self.has_ended)

    def judge(self) -> tuple[Data, str]:
        """Whether all answers came whole, and how it is said."""
        over = self.wire.saw_fin or self.wire.timeline.saw("rst seen", "failed")
        return judge_answers(self.answers, len(self._methods), has_ended=over)

    def wait_answers(self, seconds: float, count: int | None = None) -> list[Answer]:
        """Receive until so many whole answers are there; without a count, all that are expected.

        :returns: the answers, fewer if the server's side or the time ended first
        """
        wanted = len(self._methods) if count is None else count
        until = monotonic() + seconds
        needed = 0  # a large answer is not parsed again with each piece that comes
        while True:
            if self.count >= needed:
                answers = self.answers
                if sum(answer.is_whole for answer in answers) >= wanted:
                    return answers
                needed = self.count + self._missing(answers)
            if not self.receive_some(_MOMENT):
                needed = 0
                if self._saw_end or not self.receive_some(until - monotonic()):
                    return self.answers

    @staticmethod
    def _missing(answers: list[Answer]) -> int:
        """How many more bytes are worth another look, if they come without a pause."""
        last = answers[-1] if answers else None
        if last is None or last.is_whole or last.wanted is None:
            return _AT_ONCE if last is not None and len(last.body) > _AT_ONCE else 1
        return last.wanted - len(last.body)

    def wait_answer(self, seconds: float | None = None) -> Answer | None:
        """Receive until all answers are there; returns the last one, or ``None``: not all have come whole."""
        answers = self.wait_answers(self.context.patience if seconds is None else seconds)
        whole = [answer for answer in answers if answer.is_whole]
        return whole[-1] if len(whole) == len(self._methods) else None
