"""``check_byte_stream``: small named rules for any AnyIO or Trio byte stream, in the spirit of Go's ``nettest``.

Loaded on first use: this room and the two below it alone import AnyIO and Trio.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..._origin import public
from .check import BrokenRuleError, FaceName, MakePair, StreamCheck
from .rules import CHECKS


@public
async def check_byte_stream(
    make_pair: MakePair,
    *,
    face: FaceName = "anyio",
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    seconds: float = 10.0,
) -> None:
    """Put every rule to a kind of stream; each gets a fresh pair.

    :param make_pair: async, returns two new streams that are connected to each other; the first one is judged
    :param face: whose contract: ``"anyio"`` on any of its loops, ``"trio"`` on Trio
    :param only: the names of rules; ``None`` for all
    :param skip: the names of rules that are known not to be kept
    :param seconds: how long one check may take
    :raises ExceptionGroup: of :class:`BrokenRuleError`, one for each broken rule
    :raises ValueError: there is no rule of such a name

    Cancellation: what was made is closed.
    """
    broken = await broken_rules(make_pair, face=face, only=only, skip=skip, seconds=seconds)
    if broken:
        raise ExceptionGroup(f"{len(broken)} rules are broken", broken)


@public
async def broken_rules(
    make_pair: MakePair,
    *,
    face: FaceName = "anyio",
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    seconds: float = 10.0,
) -> list[BrokenRuleError]:
    """As :func:`check_byte_stream`, and return what is broken."""
    checks = stream_checks(face)
    names = {check.name for check in checks}
    wanted = names if only is None else set(only)
    skipped = set(skip)
    if unknown := (wanted | skipped) - names:
        raise ValueError(f"there are no such rules: {', '.join(sorted(unknown))}")
    broken = []
    for check in checks:
        if check.name in wanted - skipped:
            try:
                await check.run(make_pair, face=face, seconds=seconds)
            except BrokenRuleError as error:
                broken.append(error)
    return broken


@public
def stream_checks(face: FaceName = "anyio") -> tuple[StreamCheck, ...]:
    """The rules of one face, in their order."""
    return tuple(check for check in CHECKS if check.is_for(face))
