"""The pipe of a transfer."""

from __future__ import annotations

import socket

import pytest

from roket_trio._kernel import splice


@pytest.mark.skipif(not splice.AVAILABLE, reason="there is no splice(2)")
def test_a_pipe_whose_count_ctrl_c_has_kept_back_is_taken_out_all_the_same() -> None:
    left, right = socket.socketpair()
    pipe = splice.Pipe()
    with left, right:
        left.send(b"12345")
        pipe.fill(right.fileno(), 5)
        pipe.held += 3  # they were given to the sink, and not counted
        assert (pipe.take_out(), pipe.held) == (b"12345", 0)
    pipe.close()


def test_a_pipe_that_an_exception_stopped_before_its_first_line_can_be_finalized() -> None:
    splice.Pipe.__new__(splice.Pipe).__del__()
