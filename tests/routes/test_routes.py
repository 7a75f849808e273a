"""The five routes of a transfer against a model: any sizes and interruptions, faults in every system call, closes."""

from __future__ import annotations

import errno
import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.loops import Run
from support.planned_routes import MODULES, ROWS, Kernel, Plan, carry_out, turn_off

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fast routes, /dev/full and RST as Linux has them")


# --- a kernel that does what a test wants -----------------------------------------------------------------------------


# --- any plan against the model ---------------------------------------------------------------------------------------


_plans = st.builds(
    Plan,
    size=st.sampled_from([0, 1, 4095, 65_536, 65_537, 300_001]) | st.integers(0, 600_000),
    count=st.none() | st.sampled_from([0, 1, 65_536]) | st.integers(0, 700_000),
    source_at=st.sampled_from([0, 1, 4096]) | st.integers(0, 50_000),
    sink_at=st.sampled_from([0, 3, 4096]) | st.integers(0, 50_000),
    chunk=st.sampled_from([1 << 20, 65_536, 8191, 1000]),
    most=st.sampled_from([1 << 40, 100_000, 4096, 3001]),
    off=st.booleans(),
    refuse_after=st.none() | st.just(0) | st.integers(1, 12),
    refusal=st.sampled_from([errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EBADF]),
    send_buffer=st.sampled_from([0, 65_536, 262_144]),
    receive_buffer=st.sampled_from([0, 65_536, 262_144]),
    cancel_after=st.lists(st.integers(0, 12), max_size=5),
)


@pytest.mark.parametrize("row", ROWS)
def test_whatever_happens_each_route_and_its_fallback_agree_with_the_model(run: Run, tmp_path: Path, row: str) -> None:
    seen: set[str] = set()

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(plan=_plans)
    @example(plan=Plan(300_001, None))
    @example(plan=Plan(300_001, None, off=True))
    @example(plan=Plan(300_001, None, refuse_after=0))
    @example(plan=Plan(300_001, None, refuse_after=3, most=4096))
    def examples(plan: Plan) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            kernel = Kernel(monkeypatch)
            if plan.off:
                turn_off(monkeypatch)
            run(carry_out, row, plan, kernel, tmp_path)
            seen.add("off" if plan.off else "refused" if kernel.refused else "fast")
            if kernel.refused:
                seen.add("refused at once" if not kernel.calls else "refused in the middle")

    examples()
    assert seen == {"off", "fast", "refused", "refused at once", "refused in the middle"}


@pytest.mark.parametrize("row", ROWS)
def test_cancelled_again_and_again_and_resumed_every_byte_is_where_it_belongs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel, way: str, row: str
) -> None:
    """24 kinds of it, 45 cancellations each: more than a thousand."""
    chance = random.Random(row + way)
    cancels = 0
    while cancels < 45:
        plan = Plan(
            size=chance.randrange(1, 900_000),
            count=None,
            chunk=chance.choice([1000, 10_000, 100_000]),
            off=way == "plain",
            most=chance.choice([1000, 10_000, 1 << 20]),
            send_buffer=chance.choice([65_536, 262_144]),
            receive_buffer=chance.choice([65_536, 262_144]),
            cancel_after=[chance.randrange(8) for _ in range(25)],
        )
        kernel.moved = dict.fromkeys(MODULES, 0)
        cancels += run(carry_out, row, plan, kernel, tmp_path)
