"""The test data in files: quickly made, and the first wrong byte is found wherever it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roket_trio.testing import payload
from roket_trio.testing._bench.blocks import BLOCK, blocks, first_wrong, first_wrong_in, size_of, warm, write_test_data

SIZE = 2 * BLOCK + 12_345
DATA = payload(SIZE)


@pytest.mark.parametrize("start", [0, BLOCK, 16 * BLOCK, 255 * BLOCK, 4096 * BLOCK])
def test_blocks_are_the_payload(start: int) -> None:
    assert b"".join(bytes(block) for block in blocks(SIZE, start)) == payload(SIZE, start)


def test_a_file_of_it_is_right(tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    write_test_data(path, SIZE)
    warm(path)
    assert Path(path).read_bytes() == DATA
    assert first_wrong_in(path, SIZE) is None
    assert size_of(path) == SIZE
    assert size_of(path + "-absent") == 0


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, SIZE - 1), bit=st.integers(0, 7))
def test_one_wrong_bit_is_found_where_it_is(at: int, bit: int) -> None:
    data = bytearray(DATA)
    data[at] ^= 1 << bit
    assert first_wrong(memoryview(data)) == at


def test_pieces_that_are_moved_doubled_or_missing_are_found() -> None:
    for data, at in (
        (DATA[:4096] + DATA[:4096] + DATA[8192:], 4096),
        (DATA[:BLOCK] + DATA[:BLOCK], BLOCK),
        (DATA[:64] + DATA[128:], 64),
        (DATA[BLOCK : 2 * BLOCK] + DATA[:BLOCK], 0),
    ):
        found = first_wrong(memoryview(data))
        assert found is not None
        assert at <= found < at + 64


def test_a_later_piece_is_compared_with_what_belongs_there() -> None:
    assert first_wrong(memoryview(DATA)[BLOCK:], BLOCK) is None
    assert first_wrong(memoryview(DATA)[BLOCK:], 2 * BLOCK) is not None


def test_a_file_that_is_too_short_or_too_long_is_wrong_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA[:-1])
    assert first_wrong_in(str(path), SIZE) == SIZE - 1
    path.write_bytes(DATA + b"!")
    assert first_wrong_in(str(path), SIZE) == SIZE
    path.write_bytes(b"")
    assert first_wrong_in(str(path), SIZE) == 0
