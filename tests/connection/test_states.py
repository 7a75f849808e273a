"""The states of a connection, the policy and the report: pure, so no socket and no loop."""

from __future__ import annotations

import dataclasses
import errno
import math
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roket_trio import BrokenResourceError, ClosedResourceError, CloseOutcome, ClosePolicy, CloseReport
from roket_trio._connection.states import RECEIVING, SENDING, ConnectionEvent, Direction, Lifecycle, Phase


def a_loss(number: int = errno.ECONNRESET) -> BrokenResourceError:
    loss = BrokenResourceError(f"the connection is gone: {errno.errorcode[number]}")
    loss.errno = number
    return loss


def passes(check: Any) -> bool:
    try:
        check()
    except (BrokenResourceError, ClosedResourceError):
        return False
    return True


# --- the policy ------------------------------------------------------------------------------------------------------


def test_the_policy_has_the_documented_defaults() -> None:
    policy = ClosePolicy()
    assert dataclasses.asdict(policy) == {
        "linger_seconds": 1.0,
        "wait_for_peer": False,
        "idle_seconds": 5.0,
        "max_bytes": None,
        "on_error": "finish",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("linger_seconds", -0.001),
        ("linger_seconds", math.nan),
        ("idle_seconds", -1),
        ("idle_seconds", math.nan),
        ("max_bytes", -1),
        ("on_error", "raise"),
        ("on_error", None),
    ],
)
def test_the_policy_refuses_what_makes_no_sense_and_names_it(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        ClosePolicy(**{name: value})


@pytest.mark.parametrize(
    "fields", [{"linger_seconds": 0}, {"linger_seconds": math.inf}, {"idle_seconds": 0}, {"max_bytes": 0}]
)
def test_the_policy_accepts_the_edges(fields: dict[str, Any]) -> None:
    policy = ClosePolicy(**fields)
    assert all(getattr(policy, name) == value for name, value in fields.items())


def test_policy_and_report_are_values() -> None:
    assert ClosePolicy(linger_seconds=2) == ClosePolicy(linger_seconds=2)
    assert len({ClosePolicy(), ClosePolicy(), ClosePolicy(on_error="abort")}) == 2
    report = CloseReport(CloseOutcome.CLEAN, True, 0, 0, True, 0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.acked = False  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        ClosePolicy().linger_seconds = 2  # type: ignore[misc]


# --- the tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "event"), list(product(Direction, ConnectionEvent)))
def test_sending_moves_as_its_table_says_and_otherwise_stays(state: Direction, event: ConnectionEvent) -> None:
    life = Lifecycle()
    life.sending = state
    life.happened(event)
    assert life.sending is SENDING.get((state, event), state)


@pytest.mark.parametrize(("state", "event"), list(product(Direction, ConnectionEvent)))
def test_receiving_moves_as_its_table_says_and_otherwise_stays(state: Direction, event: ConnectionEvent) -> None:
    life = Lifecycle()
    life.receiving = state
    life.happened(event)
    assert life.receiving is RECEIVING.get((state, event), state)


def test_no_way_leads_back_but_that_of_a_resumed_transfer() -> None:
    final = (Direction.EOF, Direction.RESET)
    assert not [key for table in (SENDING, RECEIVING) for key in table if key[0] in final]
    assert [key for key, to in SENDING.items() if to is Direction.OPEN] == [
        (Direction.CUT, ConnectionEvent.SEND_RESUMED)
    ]
    assert [key for key, to in RECEIVING.items() if to is Direction.OPEN] == []


# --- what may be done ------------------------------------------------------------------------------------------------


def test_a_new_connection_may_do_everything() -> None:
    life = Lifecycle()
    life.check_open()
    life.check_sending()
    life.check_receiving()
    assert (life.is_cut, life.sent_eof, life.has_received_eof, life.has_peer_finished, life.loss) == (
        False,
        False,
        False,
        False,
        None,
    )


@pytest.mark.parametrize(("sent", "total", "is_cut"), [(0, 5, False), (5, 5, False), (0, None, False), (0, 0, False)])
def test_nothing_or_everything_is_no_cut(sent: int, total: int | None, is_cut: bool) -> None:
    life = Lifecycle()
    life.stopped(sent, total)
    assert life.is_cut is is_cut
    life.check_sending()


@pytest.mark.parametrize(
    ("sent", "total", "words"), [(3, 5, "3 of 5 bytes"), (3, None, "3 of an unknown number of bytes")]
)
def test_a_cut_names_its_counts_and_leaves_receiving_alone(sent: int, total: int | None, words: str) -> None:
    life = Lifecycle()
    life.stopped(sent, total)
    assert life.is_cut
    with pytest.raises(BrokenResourceError, match=words):
        life.check_sending()
    life.check_receiving()
    life.happened(ConnectionEvent.SEND_RESUMED)
    life.check_sending()


def test_after_eof_was_sent_a_send_is_refused_and_a_receive_is_not() -> None:
    life = Lifecycle()
    life.happened(ConnectionEvent.EOF_SENT)
    assert life.sent_eof
    with pytest.raises(BrokenResourceError, match="send_eof"):
        life.check_sending()
    life.check_receiving()


def test_eof_was_received_and_receiving_may_be_asked_again() -> None:
    life = Lifecycle()
    life.happened(ConnectionEvent.EOF_RECEIVED)
    life.happened(ConnectionEvent.EOF_RECEIVED)
    assert life.has_received_eof
    assert life.has_peer_finished
    life.check_receiving()
    life.check_sending()


def test_a_lost_connection_is_still_received_from_until_it_is_empty() -> None:
    life = Lifecycle()
    life.failed(ConnectionEvent.SEND_FAILED, a_loss())
    with pytest.raises(BrokenResourceError, match="ECONNRESET"):
        life.check_sending()
    life.check_receiving()
    assert life.has_peer_finished
    life.happened(ConnectionEvent.RECEIVE_FAILED)
    for _ in range(2):
        with pytest.raises(BrokenResourceError, match="ECONNRESET") as info:
            life.check_receiving()
        assert info.value.errno == errno.ECONNRESET
    assert not life.has_received_eof


def test_an_end_behind_a_loss_is_an_end_each_time() -> None:
    life = Lifecycle()
    life.failed(ConnectionEvent.SEND_FAILED, a_loss(errno.EPIPE))
    life.happened(ConnectionEvent.EOF_RECEIVED)
    assert life.has_received_eof
    life.check_receiving()
    with pytest.raises(BrokenResourceError, match="EPIPE"):
        life.check_sending()


def test_a_loss_that_a_receive_has_met_ends_both_directions() -> None:
    life = Lifecycle()
    life.failed(ConnectionEvent.RECEIVE_FAILED, a_loss(errno.ETIMEDOUT))
    for check in (life.check_sending, life.check_receiving):
        with pytest.raises(BrokenResourceError, match="ETIMEDOUT"):
            check()


def test_the_first_loss_is_kept_since_the_kernel_tells_it_once() -> None:
    life = Lifecycle()
    first = a_loss()
    life.failed(ConnectionEvent.SEND_FAILED, first)
    life.failed(ConnectionEvent.SEND_FAILED, a_loss(errno.EPIPE))
    life.failed(ConnectionEvent.RECEIVE_FAILED, a_loss(errno.EPIPE))
    assert life.loss is first


def test_each_report_of_a_loss_is_a_new_exception_with_the_same_cause() -> None:
    life = Lifecycle()
    loss = a_loss()
    loss.__cause__ = cause = ConnectionResetError()
    life.failed(ConnectionEvent.RECEIVE_FAILED, loss)
    raised = []
    for _ in range(2):
        with pytest.raises(BrokenResourceError) as info:
            life.check_receiving()
        raised.append(info.value)
    # A traceback grows each time an exception is raised; one that is kept would grow for ever.
    assert raised[0] is not raised[1]
    assert raised[0] is not loss
    assert raised[0].__cause__ is raised[1].__cause__ is cause


@pytest.mark.parametrize("phase", [Phase.CLOSING, Phase.CLOSED])
@pytest.mark.parametrize("before", ["open", "cut", "eof", "lost"])
def test_closed_on_this_side_goes_before_every_other_reason(phase: Phase, before: str) -> None:
    life = Lifecycle()
    if before == "cut":
        life.stopped(1, 2)
    elif before == "eof":
        life.happened(ConnectionEvent.EOF_SENT)
    elif before == "lost":
        life.failed(ConnectionEvent.RECEIVE_FAILED, a_loss())
    life.enter(phase)
    for check in (life.check_open, life.check_sending, life.check_receiving):
        with pytest.raises(ClosedResourceError):
            check()


steps = st.one_of(
    st.sampled_from([ConnectionEvent.SEND_RESUMED, ConnectionEvent.EOF_SENT, ConnectionEvent.EOF_RECEIVED]),
    st.tuples(st.integers(0, 3), st.none() | st.integers(0, 3)),
    st.sampled_from([errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT]).flatmap(
        lambda number: st.sampled_from([("send", number), ("receive", number)])
    ),
    st.sampled_from([Phase.CLOSING, Phase.CLOSED]),
)


@settings(deadline=None)
@given(st.lists(steps, max_size=8))
def test_whatever_happens_the_flags_of_the_hot_path_agree_with_the_checks(happenings: list[Any]) -> None:
    life = Lifecycle()
    for step in happenings:
        if isinstance(step, ConnectionEvent):
            life.happened(step)
        elif isinstance(step, Phase):
            life.enter(step)
        elif step[0] == "send":
            life.failed(ConnectionEvent.SEND_FAILED, a_loss(step[1]))
        elif step[0] == "receive":
            life.failed(ConnectionEvent.RECEIVE_FAILED, a_loss(step[1]))
        else:
            life.stopped(*step)
        assert life.may_send is passes(life.check_sending)
        assert life.may_receive is passes(life.check_receiving)
        # A cut is never taken for an end, and an end never for a cut.
        assert not (life.is_cut and life.sent_eof)
        assert not (life.is_cut and life.may_send)
