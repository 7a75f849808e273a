"""A handler raises while a file is opened for replacement, at each point: no new file and no descriptor stays."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path

import anyio
import pytest
from support.interruptions import Interruption, raising_at_event
from support.waiting import BOUND

from roket_trio import FileWriteStream
from roket_trio._loops import current_loop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc lists the descriptors")


async def let_threads_drop_their_results() -> None:
    """An idle thread of AnyIO's keeps what its last call has returned until its next call: give one to each."""
    count = sum(thread.name.startswith("AnyIO worker") for thread in threading.enumerate()) or 1
    meeting = threading.Barrier(count)
    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(current_loop().run_in_thread, meeting.wait)
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_nothing_stays_of_a_file_whose_opening_for_replacement_is_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    await (await FileWriteStream.from_path(path, atomic=True)).discard()  # what a loop opens once is no leak
    before = set(os.listdir("/proc/self/fd"))
    places, number = ["before"], 0
    while places:
        number += 1
        stream = None
        with raising_at_event(number, Interruption()) as places:
            try:
                stream = await FileWriteStream.from_path(path, atomic=True)
            except Interruption:
                assert places
        if stream is not None:
            await stream.discard()
        await let_threads_drop_their_results()
        with anyio.move_on_after(BOUND):  # one may still have been at its call
            while not set(os.listdir("/proc/self/fd")) <= before or os.listdir(tmp_path) != ["file"]:
                await let_threads_drop_their_results()
        assert set(os.listdir("/proc/self/fd")) <= before, places
        assert os.listdir(tmp_path) == ["file"], places
    assert number > 10
    assert path.read_bytes() == b"old"
