"""Inputs made from good ones: some bytes changed, cut out, repeated, or taken from another one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

LONGEST: Final = 64 << 10  # bytes, of an input

# Where parsers decide: signs, blanks, ends of lines, halves of encodings, ends of ranges.
BYTES: Final = b"\0\1\t\n\r !\"#%'*+,-./0179:;<=>?@A[\\]^_`az{|}~\x7f\x80\xbf\xc0\xc3\xe2\xed\xf4\xff"
NUMBERS: Final = (
    *(b"0", b"-1", b"00", b"1e9", b"1e400", b"0x10", b"+5", b"1_0", b"NaN"),
    *(b"%d" % (1 << bits) for bits in (7, 8, 15, 16, 31, 32, 33, 53, 62, 63, 64, 65)),
    b"9" * 20,
    b"9" * 5000,
)


def mutated(rng: random.Random, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """One input, made from one or two of the corpus."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 5, 8])):
        _mutate(rng, data, corpus, tokens)
        del data[LONGEST:]
    return bytes(data)


def _mutate(rng: random.Random, data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice([1, 1, 2, 4, 8, 32, 512]))
    match rng.randrange(11):
        case 0:  # one bit
            if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at:end] = bytes([rng.choice(BYTES)])
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end]
        case 4:  # many times: what backtracks, recurs, or copies all of it again takes long
            piece = bytes(data[at:end]) or b" "
            data[at:at] = piece * min(LONGEST // len(piece), rng.choice([10, 1000, 1 << 16]))
        case 5:
            data[at:at] = rng.choice(tokens) if tokens else b""
        case 6:
            data[at:end] = rng.choice(NUMBERS)
        case 7:
            token = rng.choice(tokens) if tokens else b"("
            data[at:at] = token * min(LONGEST // max(1, len(token)), rng.choice([2, 100, 1 << 16]))
        case 8:  # its beginning, and the end of another one
            other = rng.choice(corpus)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        case 9:
            del data[at:]
        case _:
            data[at:end] = rng.randbytes(end - at)
