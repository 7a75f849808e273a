"""How a program closed a connection, by what its peer saw, and whether that is what a test expects: pure."""

from __future__ import annotations

import pytest

from roket_trio.testing import Timeline
from roket_trio.testing._expectations.explanation import explain
from roket_trio.testing._expectations.observed import view_of_peer
from roket_trio.testing._peers import timeline as timeline_module
from roket_trio.testing._results.close_verdict import CloseExpectation, ExpectedClose, ObservedClose, judge_close


def seen(*events: tuple[str, float]) -> Timeline:
    """A timeline; times in seconds from its beginning."""
    timeline = Timeline()
    moments = iter([0.0, *[at for _, at in events]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline_module, "monotonic", lambda: next(moments))
        timeline.note("connected")
        for kind, _ in events:
            timeline.note(kind, 10 if kind in ("sent", "received") else 0)  # type: ignore[arg-type]
    return timeline


CASES: dict[str, tuple[list[tuple[str, float]], ExpectedClose, tuple[str, str]]] = {
    "fin": ([("fin seen", 1.0)], "clean", ("clean", "pass")),
    "fin long before the end": ([("fin seen", 1.0)], "closed", ("clean", "pass")),
    "rst": ([("rst seen", 1.0)], "clean", ("reset", "fail")),
    "rst wanted": ([("rst seen", 1.0)], "reset", ("reset", "pass")),
    "either": ([("rst seen", 1.0)], "closed", ("reset", "pass")),
    "fin instead of rst": ([("fin seen", 1.0)], "reset", ("clean", "fail")),
    "rst after fin": ([("fin seen", 1.0), ("sent", 2.0), ("rst seen", 2.1)], "clean", ("reset", "fail")),
    "a call fails": ([("sent", 1.0), ("failed", 1.1)], "clean", ("reset", "fail")),
    "in time": ([("fin sent", 1.0), ("fin seen", 5.9)], "clean", ("clean", "pass")),
    "late": ([("fin sent", 1.0), ("fin seen", 6.1)], "clean", ("late", "fail")),
    "a late rst": ([("fin sent", 1.0), ("rst seen", 6.1)], "reset", ("late", "fail")),
    "data counts": ([("fin sent", 1.0), ("received", 5.0), ("fin seen", 9.9)], "clean", ("clean", "pass")),
    "data, then late": ([("fin sent", 1.0), ("received", 5.0), ("fin seen", 10.1)], "clean", ("late", "fail")),
    "nothing": ([], "clean", ("half-open", "fail")),
    "nothing, peer finished": ([("fin sent", 1.0)], "closed", ("half-open", "fail")),
    "peer reset": ([("rst sent", 1.0)], "clean", ("not-observed", "not-observed")),
    "peer vanished": ([("vanished", 1.0)], "clean", ("not-observed", "not-observed")),
    "peer gave up": ([("out of bounds", 1.0), ("fin sent", 1.0)], "clean", ("not-observed", "not-observed")),
    "peer closed after": ([("fin seen", 1.0), ("fin sent", 1.1), ("closed", 1.1)], "clean", ("clean", "pass")),
    "idle before the end": ([("received", 1.0), ("fin seen", 40.0)], "clean", ("clean", "pass")),
}


@pytest.mark.parametrize("name", CASES)
def test_verdicts(name: str) -> None:
    """The test was over after 50 s, and 5 are allowed."""
    events, expect, wanted = CASES[name]
    expected, view = CloseExpectation(expect, 5.0), view_of_peer(seen(*events))
    found = judge_close(expected, view.close(over_at=50.0))
    assert (found.close, found.verdict) == wanted
    assert found.verdict == "pass" or all(explain(expected, view, found, None))


def test_what_the_peer_has_not_asked_for_may_last_as_long_as_the_test() -> None:
    expected, view = CloseExpectation("clean", 5.0), view_of_peer(seen(("fin seen", 54.0)))
    assert judge_close(expected, view.close(over_at=50.0)).verdict == "pass"
    assert judge_close(expected, view.close(over_at=48.0)).close == "late"


FACTS: dict[str, tuple[ObservedClose, tuple[str, str]]] = {
    "a descriptor that is still held, after a RST": (ObservedClose(None, 1.0, 0.0, True), ("leaked", "fail")),
    "a descriptor that is still held, and no end": (ObservedClose(None, None, 0.0, True, "blind"), ("leaked", "fail")),
    "released, where the peer could not see": (ObservedClose(None, None, 0.0, False, "blind"), ("clean", "pass")),
    "the peer could not see, nor the census": (
        ObservedClose(None, None, 0.0, None, "blind"),
        ("not-observed", "not-observed"),
    ),
    "a FIN that was not timed": (ObservedClose(99.0, None, None, False), ("clean", "pass")),
    "a wrong end, and late": (ObservedClose(None, 99.0, 0.0, False), ("reset", "fail")),
    "a FIN only in answer to the peer's": (
        ObservedClose(1.0, None, 0.0, False, is_only_an_answer=True),
        ("half-open", "fail"),
    ),
}


@pytest.mark.parametrize("name", FACTS)
def test_what_counts_first(name: str) -> None:
    facts, wanted = FACTS[name]
    found = judge_close(CloseExpectation("clean", 5.0), facts)
    assert (found.close, found.verdict) == wanted
