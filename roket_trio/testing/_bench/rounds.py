"""Rounds: everything that is measured, in random order, again and again, so that what disturbs one disturbs all alike.

Pure.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def interleaved(
    ways: Sequence[T], rounds: int, order: random.Random, *, warmed: bool = True
) -> Iterator[tuple[int, T]]:
    """What to run next, and in which round: from 1 on.

    :param warmed: a round 0 comes first, which is not to count
    """
    for number in range(0 if warmed else 1, rounds + 1):
        for way in order.sample(ways, len(ways)):
            yield number, way
