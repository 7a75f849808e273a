"""``check_byte_stream``: checks any AnyIO or Trio byte stream by small named rules, as Go's ``nettest`` does for Go.

It is loaded on first use, since it imports AnyIO and Trio.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..._public import public
from .rules import CHECKS
from .stream_check import BrokenRuleError, FaceName, MakePair, StreamCheck


@public
async def check_byte_stream(
    make_pair: MakePair,
    *,
    face: FaceName = "anyio",
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    seconds: float = 10.0,
) -> None:
    """Check every rule on a kind of stream. Each rule gets a new pair of streams.

    :param make_pair: async; returns two new streams that are connected to each other. The first one is checked
    :param face: the contract: ``"anyio"`` on any of AnyIO's loops, ``"trio"`` on Trio
    :param only: the names of rules; ``None`` for all
    :param skip: the names of rules that the stream is known to break
    :param seconds: how long one check may take
    :raises ExceptionGroup: of :class:`BrokenRuleError`, one for each broken rule
    :raises ValueError: there is no rule of such a name

    A cancellation closes the streams that were made.
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
    """Check the rules as :func:`check_byte_stream` does, and return those that are broken instead of raising them."""
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
    """The rules of one library's contract, in their order."""
    return tuple(check for check in CHECKS if check.is_for(face))
