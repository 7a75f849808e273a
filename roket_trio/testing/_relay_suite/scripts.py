"""What clients and targets do in the cases of the relay suite, each a function of a wire and the context.

A pair of scripts tells each other how far it is, since what one side does must not begin before the other side saw what
came before. No script but those that judge it relies on a FIN being passed on: one fault shows in one case.
"""

from __future__ import annotations

from contextlib import closing
from typing import Final

from .._close_suite.context import CaseContext
from .._peers.payload import payload
from .._peers.wire import Wire
from .crowd import Crowd, NoDescriptorsError, descriptors
from .holding import MOST_HELD, held_bytes
from .run import READY

SMALL: Final = 1000
UPLOAD: Final = 100_000
BOTH_WAYS: Final = 4 << 20  # more than the kernel's buffers take before they have grown
LARGE: Final = 16 << 20
ANSWER: Final = 4 << 20
_PIECE: Final = 1 << 16
_ENDLESS: Final = 64 << 20
_PAUSE: Final = 1.5  # seconds; more than the time that socat allows the second half, by default (-t 0.5)
_IDLE: Final = 0.5
_STUCK: Final = 0.7  # seconds without a byte taken
_FLOWING = "flowing"
_ARRIVED = "arrived"
_SINK = "sink"
_GONE = "gone"
_PLACE = "place"
CROWD: Final = 1000
_SPARE: Final = 1000  # descriptors, for whatever else this process does


# --- clients and targets of the good kind ----------------------------------------------------------------------------


def asks(wire: Wire, context: CaseContext) -> None:
    """Send a request, and receive the answer."""
    wire.send(payload(SMALL))
    wire.receive(SMALL, seconds=context.patience)
    wire.half_close()
    wire.receive(seconds=1.0)


def answers(wire: Wire, context: CaseContext) -> None:
    """Receive a request, send the answer, finish."""
    wire.receive(SMALL, seconds=context.patience)
    wire.send(payload(SMALL))
    wire.half_close()
    wire.receive(seconds=1.0)


def waits_for_the_end(wire: Wire, context: CaseContext) -> None:
    wire.receive(seconds=context.patience)


# --- 1: bytes and half-close -----------------------------------------------------------------------------------------


def exchanges(wire: Wire, context: CaseContext) -> None:
    data = payload(BOTH_WAYS)
    at = 0
    while at < len(data) and (count := wire.exchange(data[at : at + (1 << 18)], seconds=context.patience)):
        at += count
    wire.half_close()
    _receive_while_it_comes(wire, context, None)


def _receive_while_it_comes(wire: Wire, context: CaseContext, count: int | None) -> None:
    """Receive so many bytes, or up to FIN; give up when nothing has come for a while, not when it takes long."""
    received = 0
    while (count is None or received < count) and wire.wait_readable(context.patience):
        chunk = wire.receive_chunk()
        if not chunk:
            break
        received += len(chunk)


def sends_and_finishes(wire: Wire, context: CaseContext) -> None:
    wire.send(payload(UPLOAD))
    wire.half_close()
    wire.receive(seconds=context.patience)


def receives_and_finishes(wire: Wire, context: CaseContext) -> None:
    wire.receive(seconds=context.patience)
    wire.half_close()


def asks_and_finishes(wire: Wire, context: CaseContext) -> None:
    wire.send(payload(SMALL))
    wire.half_close()
    wire.receive(seconds=context.patience + _PAUSE)


def answers_after_a_while(wire: Wire, context: CaseContext) -> None:
    wire.receive(SMALL, seconds=context.within)
    wire.stall(_PAUSE)
    wire.send(payload(UPLOAD))
    wire.half_close()
    wire.receive(seconds=1.0)


def finishes_and_receives(wire: Wire, context: CaseContext) -> None:
    wire.half_close()
    wire.receive(seconds=context.patience + 2 * _PAUSE)


def sends_after_a_while(wire: Wire, context: CaseContext) -> None:
    wire.wait_gone(min(_PAUSE, context.within))  # the target's FIN
    wire.stall(_PAUSE)
    wire.send(payload(UPLOAD))
    wire.half_close()
    wire.receive(seconds=1.0)


def finishes_after_a_request(wire: Wire, context: CaseContext) -> None:
    wire.receive(SMALL, seconds=context.within)
    wire.half_close()
    wire.wait_gone(_IDLE)


def asks_finishes_and_leaves(wire: Wire, context: CaseContext) -> None:
    wire.send(payload(SMALL))
    wire.half_close()
    wire.wait_gone(_IDLE)


# --- 2: resets -------------------------------------------------------------------------------------------------------


def sends_until_it_flows_and_resets(wire: Wire, context: CaseContext) -> None:
    _send_until(wire, context)
    wire.reset()


def lets_it_flow(wire: Wire, context: CaseContext) -> None:
    wire.receive(1 << 20, seconds=context.patience)
    context.tell(_FLOWING)
    wire.receive(seconds=context.patience)


def _send_until(wire: Wire, context: CaseContext) -> None:
    """Send until the other side has told that enough has arrived."""
    at = 0
    while not context.told(_FLOWING) and at < _ENDLESS:
        at += wire.send(payload(_PIECE, at), seconds=0.1)


def resets_when_idle(wire: Wire, context: CaseContext) -> None:
    wire.send(payload(SMALL))
    wire.wait_until(lambda: bool(context.told(_ARRIVED)), context.within)
    wire.stall(_IDLE)
    wire.reset()


def is_idle(wire: Wire, context: CaseContext) -> None:
    wire.receive(SMALL, seconds=context.within)
    context.tell(_ARRIVED)
    wire.receive(seconds=context.patience)


def finishes_and_resets_in_the_answer(wire: Wire, context: CaseContext) -> None:
    wire.send(payload(SMALL))
    wire.half_close()
    wire.receive(1 << 20, seconds=context.within)
    wire.reset()


def answers_without_end(wire: Wire, context: CaseContext) -> None:
    wire.receive(SMALL, seconds=context.within)
    _sends_without_end(wire, context)


def finishes_and_resets_in_the_upload(wire: Wire, context: CaseContext) -> None:
    wire.half_close()
    wire.receive(1 << 20, seconds=context.within)
    wire.reset()


def sends_without_end(wire: Wire, context: CaseContext) -> None:
    wire.wait_gone(_IDLE)  # the target's FIN
    _sends_without_end(wire, context)


def _sends_without_end(wire: Wire, context: CaseContext) -> None:
    wire.send(bytes(_ENDLESS), seconds=context.patience)
    wire.wait_gone(context.patience)


# --- 3: targets that are not there -----------------------------------------------------------------------------------


def resets_at_once(wire: Wire, context: CaseContext) -> None:
    wire.reset()


# --- 4: slow readers, and clients that are gone ----------------------------------------------------------------------


def fills(wire: Wire, context: CaseContext) -> None:
    """Send until nothing is taken any more, and say if the relay holds too much."""
    _fill(wire, context)
    sink = context.told(_SINK)
    held = None if sink is None else held_bytes(context, wire, sink)
    if held is None:
        context.unseen("how much the relay holds is not observed")
    else:
        wire.timeline.note("note", held, "held by the relay, while nothing was received from it")
        if held > MOST_HELD:
            context.fault(f"it holds {held:,} bytes that nobody receives; {MOST_HELD:,} would do")
    context.tell(READY)
    wire.reset()


def _fill(wire: Wire, context: CaseContext) -> None:
    """Send until nothing is taken any more, once the other side is there."""
    wire.wait_until(lambda: context.told(_SINK) is not None, context.patience)
    at = 0
    while at < _ENDLESS and (count := wire.send(bytes(1 << 20), seconds=_STUCK)):
        at += count


def is_not_received_from(wire: Wire, context: CaseContext) -> None:
    """Receive nothing until the other side has measured."""
    context.tell(_SINK, wire)
    wire.wait_until(lambda: bool(context.told(READY)), context.patience * 4)


def sends_much(wire: Wire, context: CaseContext) -> None:
    wire.send(payload(LARGE), seconds=context.patience * 2)
    wire.half_close()
    wire.receive(seconds=context.patience)


def receives_after_a_while(wire: Wire, context: CaseContext) -> None:
    wire.wait_unread(1, context.patience * 3)
    wire.wait_window_shut(context.within)
    wire.stall(2 * _PAUSE)
    _receive_while_it_comes(wire, context, LARGE)


def resets_while_others_look(wire: Wire, context: CaseContext) -> None:
    context.tell(_GONE, wire)
    wire.send(payload(SMALL))
    wire.wait_until(lambda: bool(context.told(_ARRIVED)), context.within)
    wire.stall(_IDLE)
    wire.reset()


def looks_for_descriptors(wire: Wire, context: CaseContext) -> None:
    """Stay silent, and see that the relay releases both of its descriptors."""
    wire.receive(SMALL, seconds=context.within)
    _sees_that_both_are_released(wire, context)


def _sees_that_both_are_released(wire: Wire, context: CaseContext) -> None:
    context.tell(_ARRIVED)
    gone: Wire | None = context.told(_GONE)
    if gone is None:
        return
    try:
        wire.wait_until(lambda: gone.is_over, context.patience)
    finally:  # a reset that is passed on ends the script
        context.wait_released(gone, context.within)
        context.wait_released(wire, context.within)


def sends_and_looks_for_descriptors(wire: Wire, context: CaseContext) -> None:
    wire.wait_until(lambda: context.told(_GONE) is not None, context.within)
    wire.send(payload(SMALL))
    _sees_that_both_are_released(wire, context)


def resets_after_a_request(wire: Wire, context: CaseContext) -> None:
    context.tell(_GONE, wire)
    wire.receive(SMALL, seconds=context.within)
    wire.wait_until(lambda: bool(context.told(_ARRIVED)), context.within)
    wire.stall(_IDLE)
    wire.reset()


def fills_and_resets(wire: Wire, context: CaseContext) -> None:
    context.tell(_GONE, wire)
    _fill(wire, context)
    wire.reset()


def takes_nothing_and_looks(wire: Wire, context: CaseContext) -> None:
    context.tell(_SINK, wire)
    wire.wait_until(lambda: context.told(_GONE) is not None, context.within)
    gone: Wire | None = context.told(_GONE)
    if gone is None:
        return
    wire.wait_until(lambda: gone.is_over, context.patience * 4)
    context.wait_released(gone, context.within)


# --- 5: the relay's life ---------------------------------------------------------------------------------------------


def takes_the_answer_while_it_ends(wire: Wire, context: CaseContext) -> None:
    wire.receive(1 << 18, seconds=context.within)
    context.terminate()
    _receive_while_it_comes(wire, context, ANSWER - (1 << 18))


def takes_its_time(wire: Wire, context: CaseContext) -> None:
    """Send for two seconds."""
    wire.trickle(payload(ANSWER), piece=ANSWER // 100, interval=0.02)
    wire.half_close()
    wire.receive(seconds=1.0)


def is_asked_to_end_when_idle(wire: Wire, context: CaseContext) -> None:
    wire.send(payload(SMALL))
    wire.receive(SMALL, seconds=context.within)
    wire.stall(_IDLE)
    context.terminate()
    try:
        wire.wait_gone(1.0)  # it may end what is idle, or wait for us
        if not wire.saw_fin:
            wire.half_close()
    finally:
        context.tell("asked")
        if not context.wait_exited(context.within + 1.0):
            context.fault(f"it still runs {context.within + 1:g} s after SIGTERM, and nothing is left to be done")


def answers_and_waits(wire: Wire, context: CaseContext) -> None:
    wire.receive(SMALL, seconds=context.within)
    wire.send(payload(SMALL))
    wire.wait_gone(context.patience)


def answers_unasked(wire: Wire, context: CaseContext) -> None:
    """Send the answer, finish, and take what comes within a second: connections of earlier clients come late."""
    wire.send(payload(SMALL))
    wire.half_close()
    wire.receive(seconds=1.0)


def lends_its_place(wire: Wire, context: CaseContext) -> None:
    """The first client's target: from now on a crowd's listens there."""
    context.tell(_PLACE, wire.local)
    wire.receive(seconds=context.patience * 4)


def brings_a_crowd(wire: Wire, context: CaseContext) -> None:
    wire.wait_until(lambda: bool(context.told(_PLACE)), context.within)
    place = context.told(_PLACE)
    if place is None or wire.remote is None:
        context.unseen("the relay has not connected to its target")
        return
    try:
        with descriptors(2 * CROWD + _SPARE), closing(Crowd(wire.remote, place, CROWD)) as crowd:
            _watch_crowd(wire, context, crowd)
    except NoDescriptorsError as error:
        context.unseen(str(error))


def _watch_crowd(wire: Wire, context: CaseContext, crowd: Crowd) -> None:
    """Serve the crowd for as long as some of it come to their end, and say how the others fared."""
    ended = -1
    is_out_of_time = True
    try:
        while crowd.ended > ended:
            ended = crowd.ended
            if wire.wait_until(crowd.step, context.patience * 2):
                break
        is_out_of_time = False
    finally:
        others = [f"{count} {how}" for how, count in crowd.ends.items() if how != "served"]
        silent = CROWD - crowd.ended
        if silent and not is_out_of_time:
            others.append(f"{silent} saw nothing, and for {context.patience * 2:g} s nobody came to an end")
        if others:
            context.fault(f"of {CROWD:,} clients {crowd.ends['served']} were served: {', '.join(others)}")
        elif silent:
            context.unseen(f"{silent} of {CROWD:,} clients were still to be served when the time was over")


def stays(wire: Wire, context: CaseContext) -> None:
    context.assembled.wait(context.patience * 2)
    wire.wait_gone(0.5)


def is_stuck(wire: Wire, context: CaseContext) -> None:
    """Send until nothing is taken any more, and stay."""
    _fill(wire, context)
    context.tell(READY)
    wire.stall(context.patience * 2)


def receives_nothing(wire: Wire, context: CaseContext) -> None:
    context.tell(_SINK, wire)
    wire.stall(context.patience * 3)
