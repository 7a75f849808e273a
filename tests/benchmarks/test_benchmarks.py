"""The benchmarks measure what they say: every byte is counted, every figure is there, and a wrong one is noticed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anyio
import pytest

import roket_trio
from benchmarks import __main__ as program
from benchmarks import gate, loops, peers
from benchmarks.cases import CASES
from benchmarks.counting import Counts
from benchmarks.endpoints.processes import COUNT
from benchmarks.endpoints.sinks import sink
from benchmarks.endpoints.sources import source
from benchmarks.job import Case, Done, FigureLimit, Limits, Role, Sample, Stopwatch, Way, WrongCountError
from benchmarks.peers import building
from benchmarks.reporting import plots, records, report, story, summary
from benchmarks.results import fingerprint
from benchmarks.results.rows import Ratio, Row, rows
from benchmarks.rounds import measure
from benchmarks.testbed import Testbed, cold_copy, open_testbed
from roket_trio._kernel import sendfile, splice

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0  # seconds, for whatever is waited for
MIB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the benchmarks' sink is a POSIX process")


@pytest.fixture(scope="module")
def testbed() -> Iterator[Testbed]:
    with open_testbed(MIB) as opened:
        yield opened


def environment(**more: str) -> dict[str, str]:
    """For a child that imports the package that the tests import."""
    package = os.fspath(Path(roket_trio.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def way(name: str, role: Role, loop: str, job: Callable[..., Any] | None = None) -> Way:
    def nothing(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        with stopwatch:
            return Done(testbed.size)

    return Way(name, role, loop, job or nothing)


# --- the whole program ------------------------------------------------------------------------------------------------


def test_one_command_measures_every_case_and_leaves_nothing_but_its_figures(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    figures = tmp_path / "figures.json"
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "benchmarks",
        "run",
        "--mib",
        "1",
        "--rounds",
        "1",
        "--loop",
        "trio",
    ]
    history, pictures = tmp_path / "history.jsonl", tmp_path / "pictures"
    done = subprocess.run(
        [*command, "--loop", "trio", "--directory", place, "--json", figures, "--record", history, "--plot", pictures],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=3 * LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(place.iterdir())

    document = json.loads(figures.read_text(encoding="utf-8"))
    assert document["settings"] == {"bytes": MIB, "rounds": 1, "sink": "discard"}
    asked = {"cpu", "kernel", "congestion control", "file system", "python", "trio", "anyio", "uvloop", "roket-trio"}
    assert asked <= document["fingerprint"].keys()
    assert all(document["fingerprint"].values())
    drawn = {f"{name}-{theme}.svg" for name in ("headline", "ratios", "memory") for theme in ("light", "dark")}
    assert {path.name for path in pictures.iterdir()} == drawn
    the_run, *recorded = records.read(history)
    assert the_run["settings"]["bytes"] == MIB
    assert [(row["case"], row["way"]) for row in recorded] == [(row["case"], row["way"]) for row in document["rows"]]

    found = {(row["case"], row["way"]): row for row in document["rows"]}
    expected = {
        (case.name, way.name): way
        for case in CASES.values()
        for way in case.ways
        if way.loop in ("trio", "none") and not case.long
    }
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert row["role"] == expected[key].role
        assert row["loop"] == expected[key].loop
        assert len(row["seconds"]) == 1
        assert 0 < row["minimum"] <= row["median"] <= row["maximum"]
        assert row["minimum"] <= row["average"] <= row["maximum"]
        assert row["cpu_seconds_per_gib"] > 0
        case = CASES[row["case"]]
        is_counted = case.counted and row["role"] != "peer"
        assert (row["switches"] is not None) is (row["peak_python_kib"] is not None) is is_counted
        limits = case.limits
        for ask in case.figure_limits:
            if row["role"] == "roket":
                assert row["figures"][ask.name]["limit"] == ask.at_most
        for ratio, limit in (
            (row["times_ceiling"], limits.times_ceiling),
            (row["times_faster"], limits.times_faster),
            (row["times_less_cpu"], limits.times_less_cpu),
            (row["times_trio"], limits.times_trio),
        ):
            if ratio is None:  # nothing to compare with: then the design cannot ask for it either
                assert row["role"] != "roket" or limit is None or row["loop"] == "trio"
                continue
            assert math.isfinite(ratio["value"])
            assert ratio["between"]["low"] <= ratio["value"] <= ratio["between"]["high"]
            assert ratio["value"] > 0
            assert ratio["limit"] == (limit if row["role"] == "roket" else None)
        assert row["case"] in done.stdout
        assert row["way"] in done.stdout


@pytest.mark.parametrize("loop", [loop for loop in loops.available() if loop != "trio"])
def test_the_jobs_that_are_not_counted_run_on_the_other_loops_too(testbed: Testbed, loop: str) -> None:
    for case in CASES.values():
        if not case.counted and not case.long:
            for way in case.ways:
                if (way.role, way.loop) == ("roket", loop):
                    assert way.run(testbed).moved == case.size(testbed), f"{case.name}, {way.name}"


def test_what_only_runs_when_asked_for_runs(testbed: Testbed, loop_name: str) -> None:
    long = [case for case in CASES.values() if case.long]
    assert {"file-to-socket-1k", "file-to-socket-1g", "file-read-cold", "scale-1", "scale-100"} <= {
        c.name for c in long
    }
    for case in long:
        if case.name == "scale-1000":  # as `scale`
            continue
        for way in case.ways:
            if way.loop in (loop_name, "none") and way.role != "idiom":
                assert way.run(testbed).moved == case.size(testbed), f"{case.name}, {way.name}"


def test_every_roket_row_says_which_way_the_bytes_took(testbed: Testbed, loop_name: str) -> None:
    for name, route in {
        "file-read": r"\d+ cached, \d+ hops",
        "file-read-into": r"\d+ cached, \d+ hops",
        "file-write": r"\d+ hops",
        "socket-write-64k": r"\d+ sends",
        "socket-write-1m": r"\d+ sends",
        "file-to-socket": "sendfile" if sendfile.AVAILABLE else "read-send",
        "socket-to-file": "splice" if splice.AVAILABLE else "read-send",
        "relay": "splice" if splice.AVAILABLE else "read-send",
    }.items():
        (ours,) = (way for way in CASES[name].ways if (way.role, way.loop) == ("roket", loop_name))
        sample = ours.run(testbed)
        assert sample.moved == MIB
        assert re.fullmatch(route, sample.route), name


def test_a_route_that_is_not_taken_is_not_reported(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    (ours,) = (way for way in CASES["file-to-socket"].ways if (way.role, way.loop) == ("roket", "trio"))
    monkeypatch.setattr(sendfile, "AVAILABLE", False)
    assert ours.run(testbed).route == "read-send"


def test_ctrl_c_leaves_no_file_and_no_process(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "run",
        "--directory",
        os.fspath(tmp_path),
        "--case",
        "file-to-socket",
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            deadline = time.monotonic() + LIMIT
            while not any(tmp_path.glob("*/source")):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            peers = children(running.pid)
            assert len(peers) == 3
            running.send_signal(signal.SIGINT)
            _, errors = running.communicate(timeout=LIMIT)
        finally:
            if running.poll() is None:
                running.kill()
    assert running.returncode == 130
    assert errors == "interrupted\n"
    assert not list(tmp_path.iterdir())
    assert not any(os.path.exists(f"/proc/{peer}") for peer in peers)


def children(pid: int) -> list[int]:
    """The processes whose parent is ``pid`` (proc_pid_task_children(5))."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def options(**changed: object) -> Namespace:
    given = program.parser().parse_args(["run", "--mib", "1", "--rounds", "1"])
    return Namespace(**{**vars(given), **changed})


@pytest.mark.parametrize(("limit", "strict", "status"), [(1e9, True, 0), (1e-9, True, 1), (1e-9, False, 0)])
def test_a_limit_that_is_not_kept_is_named_and_fails_a_strict_run(
    limit: float, strict: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        with stopwatch:
            return Done(testbed.size)

    ways = (way("the ceiling", "ceiling", "none"), way("ours", "roket", "trio", job))
    monkeypatch.setattr(program, "CASES", {"planted": Case("planted", "planted", ways, Limits(times_ceiling=limit))})
    assert program.run(options(strict=strict)) == status
    printed = capsys.readouterr().out
    if limit < 1:
        assert "1 of 1 limits do not hold:\n  planted, ours: " in printed
    else:
        assert "All 1 limits hold." in printed


def test_no_rounds_at_all_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(options(rounds=-1)) == 2
    assert "at least one round" in capsys.readouterr().err


# --- measuring --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_wrong_byte_count_raises(off_by: int, testbed: Testbed) -> None:
    def wrong(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        with stopwatch:
            return Done(testbed.size + off_by)

    case = Case("planted", "planted", (way("wrong", "ceiling", "none", wrong),), Limits())
    with pytest.raises(WrongCountError, match=rf"planted, wrong: {MIB + off_by} of {MIB} bytes"):
        measure(case, testbed, 1)


def test_bytes_that_do_not_arrive_are_missed_although_they_were_sent(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The count is the receiver's: a sender that sends less is found out, whatever it believes.
    whole = CASES["socket-write-64k"]
    case = replace(whole, ways=whole.ways[:1])
    sendall = socket.socket.sendall
    monkeypatch.setattr(socket.socket, "sendall", lambda sock, data: sendall(sock, data[1:]))
    with pytest.raises(WrongCountError, match="blocking sendall"):
        measure(case, testbed, 1)


def test_a_job_that_does_not_end_is_ended(testbed: Testbed, loop_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(loops, "LIMIT", 0.01)
    with pytest.raises(TimeoutError):
        way("endless", "roket", loop_name, endless).run(testbed)


def test_rounds_are_interleaved_in_random_order_and_the_first_does_not_count(testbed: Testbed) -> None:
    ran: list[str] = []

    def recorded(name: str) -> Way:
        def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
            ran.append(name)
            with stopwatch:
                return Done(testbed.size)

        return way(name, "ceiling", "none", job)

    ways = tuple(recorded(name) for name in "abc")
    samples = measure(Case("c", "c", ways, Limits()), testbed, 10, shuffle=random.Random(1))
    rounds = [tuple(ran[start : start + 3]) for start in range(0, len(ran), 3)]
    assert len(rounds) == 11
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1
    assert [len(own) for own in samples.values()] == [10, 10, 10]


def test_cpu_time_counts_the_worker_threads_too() -> None:
    async def main() -> Stopwatch:
        stopwatch = Stopwatch()
        with stopwatch:
            await anyio.to_thread.run_sync(spin)
        return stopwatch

    def spin() -> None:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass

    assert anyio.run(main, backend="trio").cpu_seconds >= 0.05


def test_loops_that_are_not_wanted_are_left_out() -> None:
    kept = CASES["file-read"].on(["uvloop"])
    assert {way.loop for way in kept.ways} == {"none", "uvloop"}


# --- comparing --------------------------------------------------------------------------------------------------------


def test_ratios_are_of_medians_and_against_the_same_loop(testbed: Testbed) -> None:
    seconds = {
        way("blocking", "ceiling", "none"): [1.0, 2.0, 90.0],
        way("slow idiom", "idiom", "trio"): [60.0, 60.0, 60.0],
        way("quick idiom", "idiom", "trio"): [30.0, 30.0, 30.0],
        way("idiom elsewhere", "idiom", "asyncio"): [5.0, 5.0, 5.0],
        way("ours", "roket", "trio"): [3.0, 1.0, 3.0],
        way("ours elsewhere", "roket", "asyncio"): [6.0, 6.0, 6.0],
    }
    samples = {way: [Sample(s, s / 2, MIB, "the route") for s in own] for way, own in seconds.items()}
    limits = Limits(times_ceiling=1.5, times_faster=10, times_trio=1.3)
    found = {row.way: row for row in rows(Case("c", "c", tuple(samples), limits), samples, testbed)}

    ours = found["ours"]
    assert (ours.median, ours.minimum, ours.maximum) == (3.0, 1.0, 3.0)
    assert ours.average == pytest.approx(7 / 3)
    assert ours.cpu_seconds_per_gib == 1.5 * 1024
    assert ours.route == "the route"
    assert ours.times_ceiling is not None
    assert (ours.times_ceiling.value, ours.times_ceiling.holds) == (1.5, True)
    assert ours.times_faster is not None
    assert (ours.times_faster.value, ours.times_faster.holds) == (10.0, True)
    assert ours.times_trio is None
    assert not ours.misses

    elsewhere = found["ours elsewhere"]
    assert elsewhere.times_faster is not None
    assert elsewhere.times_faster.value == pytest.approx(5 / 6)
    assert elsewhere.times_trio is not None
    assert (elsewhere.times_trio.value, elsewhere.times_trio.holds) == (2.0, False)
    assert elsewhere.misses
    assert ours.times_less_cpu is None

    # Nothing is asked of others.
    assert not any(found[name].misses for name in ("blocking", "slow idiom", "idiom elsewhere"))


def test_what_a_job_measures_itself_is_held_to_what_is_asked_by_its_median(testbed: Testbed) -> None:
    ours, other = way("ours", "roket", "trio"), way("program", "idiom", "none")
    figures = [{"lag": 1.0}, {"lag": 4.0}, {"lag": 90.0}]
    samples = {
        ours: [Sample(1.0, 0.5, MIB, "", own) for own in figures],
        other: [Sample(2.0, 2.0, MIB, "", own) for own in figures],
    }
    limits = Limits(times_faster=2.5, times_less_cpu=4)
    for asked, holds in ((3.0, False), (4.0, True)):
        case = Case("c", "c", (ours, other), limits, figure_limits=(FigureLimit("lag", at_most=asked),))
        mine, theirs = rows(case, samples, testbed)
        assert (mine.figures["lag"].value, mine.figures["lag"].holds) == (4.0, holds)
        assert theirs.figures["lag"].holds is None
        # A program that has no loop is what every loop is compared with.
        assert mine.times_faster is not None
        assert (mine.times_faster.value, mine.times_faster.holds) == (2.0, False)
        assert mine.times_less_cpu is not None
        assert (mine.times_less_cpu.value, mine.times_less_cpu.holds) == (4.0, True)
        text = report.verdict([mine])
        assert ("c, ours: 4.00 lag, limit ≤ 3" in text) is not holds


# --- other languages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", peers.LANGUAGES, ids=lambda language: language.name)
def test_peers_do_the_same_jobs(language: peers.Language) -> None:
    if not language.is_here():
        pytest.skip(f"no {language.name} here")  # one is as good as another: CI installs C
    ways = [way for case in CASES.values() for way in case.ways if way.name.startswith(f"{language.name}, ")]
    assert ways
    with open_testbed(MIB) as testbed:
        for way in ways:
            sample = way.run(testbed)
            assert sample.moved == MIB, way.name
            assert 0 < sample.seconds < LIMIT
            assert sample.cpu_seconds > 0
        assert not os.path.exists(testbed.target)


def test_a_peer_that_fails_is_an_error(testbed: Testbed, capfd: pytest.CaptureFixture[str]) -> None:
    with peers.peers() as running, pytest.raises(peers.PeerError, match="asyncio cannot do nothing at all"):
        running.peer(peers.ASYNCIO).do(
            "nothing at all",
            size=testbed.size,
            block=1,
            source=testbed.source,
            target=testbed.target,
            sink_port=testbed.sink[1],
            sender_port=testbed.sender[1],
        )
    assert "KeyError" in capfd.readouterr().err


def test_without_a_compiler_there_is_no_such_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    building.c_compiler.cache_clear()
    try:
        assert not any(language.is_here() for language in (peers.JAVA, peers.GO))
        assert peers.C.is_here() is False
        assert fingerprint.fingerprint(os.curdir)["not here"] == "C, Java, Go, socat, haproxy, nginx, curl, nc"
        with pytest.raises(building.CompilerMissingError):
            building.compile_c(ROOT / "benchmarks" / "peers" / "peer.c", os.devnull)
    finally:
        building.c_compiler.cache_clear()


# --- what is kept, told and drawn -------------------------------------------------------------------------------------


def some_rows(testbed: Testbed, name: str = "file-read", factor: float = 1.0) -> list[Row]:
    """As if every way took 10 ms, the idioms ten times as long."""
    case = CASES[name].on(["trio", "asyncio"])
    samples = {
        way: [Sample(factor * (0.1 if way.role == "idiom" else 0.01) * (1 + n / 10), 0.01, MIB, "") for n in range(3)]
        for way in case.ways
    }
    return rows(case, samples, testbed, {way: Counts(MIB, "", 10, 20, 1, 4096) for way in case.ways})


WHERE = {"cpu": "a <fast> one & more", "kernel": "Linux", "python": "CPython", "commit": "abc"}


def test_the_history_grows_and_is_read_as_it_was_written(testbed: Testbed, tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    for number in range(2):
        records.append(history, records.of_run(WHERE, MIB, 3, "discard", some_rows(testbed, factor=number + 1)))
    read = records.read(history)
    assert len(read) == len(history.read_text(encoding="utf-8").splitlines())
    run, *recorded = read[: len(read) // 2]
    assert {name: run[name] for name in ("kind", "schema", "fingerprint")} == {
        "kind": "run",
        "schema": records.SCHEMA,
        "fingerprint": WHERE,
    }
    ours = next(row for row in recorded if row["role"] == "roket" and row["loop"] == "trio")
    assert records.__doc__ is not None
    of_runs, of_rows = records.__doc__.split("and each of the others")
    assert all(f"``{name}``" in of_runs for name in {**run, **run["settings"]})
    assert all(f"``{name}``" in of_rows for name in ours)
    assert ours["run"] == run["id"]
    assert ours["median"] == 0.011
    assert ours["syscalls"] == 10 * 1024
    assert ours["peak_python_kib"] == 4
    assert ours["ratios"]["× faster"] == {"value": 10.0, "low": 10.0, "high": 10.0, "limit": 10, "holds": True}


def test_what_the_repository_has_recorded_can_be_read() -> None:
    recorded = records.read(records.HISTORY)
    runs = [record for record in recorded if record["kind"] == "run"]
    assert {run["schema"] for run in runs} <= set(range(1, records.SCHEMA + 1))
    assert {row["run"] for row in recorded if row["kind"] == "row"} <= {run["id"] for run in runs}
    assert all(records.latest(recorded, list(cases)) is not None for cases, _ in plots.PLOTS.values())


def test_pictures_are_of_one_run_and_well_formed(testbed: Testbed, tmp_path: Path) -> None:
    told = [
        *records.of_run(WHERE, MIB, 3, "discard", some_rows(testbed)),
        *({**record, "id": "later", "run": "later"} for record in records.of_run(WHERE, MIB, 3, "discard", [])),
    ]
    scaling = [row for name in plots.SCALES for row in some_rows(testbed, name, plots.SCALES[name])]
    told += [{**record, "run": "last", "id": "last"} for record in records.of_run(WHERE, MIB, 3, "discard", scaling)]
    written = plots.draw(told, tmp_path)
    assert {path.name for path in written} == {
        f"{name}-{theme}.svg" for name in plots.PLOTS for theme in ("light", "dark")
    }
    for path in written:
        picture = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
        assert any("a <fast> one & more" in str(text) for text in texts)
        assert any("roket_trio on trio" in str(text) for text in texts)
        height = float(picture.attrib["height"])
        for text in picture.iter("{http://www.w3.org/2000/svg}text"):
            assert 0 < float(text.attrib["y"]) < height
    ratios = (tmp_path / "ratios-light.svg").read_text(encoding="utf-8")
    assert "1.00×   1.00 to 1.00" in ratios
    assert "10.00×" in ratios
    assert ratios != (tmp_path / "ratios-dark.svg").read_text(encoding="utf-8")
    assert plots.draw([], tmp_path) == []


def test_the_story_is_told_in_its_own_form(testbed: Testbed) -> None:
    told = story.report([row for name in story.CASES for row in some_rows(testbed, name)])
    assert "file read, ms: average, minimum, maximum; raw" in told
    assert re.search(r"roket_trio on trio +11\.00 +10 +12 +\[10, 11, 12\]", told)
    assert re.search(r"file read +then, JVM +ktor +1436\.75 +66\.75 +21\.5×", told)
    assert re.search(r"socket write +then, JVM +ktor +799\.45 +119\.95 +6\.7×", told)
    assert re.search(r"file read +now, trio +trio\.open_file +110\.00 +11\.00 +10\.0×", told)
    assert "from 10 to 95 MB/s" in told


def test_the_answer_is_bars_and_the_readme_has_a_table(testbed: Testbed) -> None:
    told = some_rows(testbed)
    answer = summary.answer(told)
    assert re.search(r"file read, receive\(65536\)\n +trio\.open_file +░{20} 10\.0\n", answer)
    assert re.search(r"roket_trio on asyncio +██ 1\.0, 10\.0 times faster than usual$", answer)
    assert "→ 100.0" in summary.answer([replace(row, times_ceiling=Ratio(100.0, None, None)) for row in told])
    assert summary.answer([row for row in told if row.role != "idiom"]) == ""
    *_, line = summary.markdown(told).splitlines()
    assert line == "| file read, receive(65536) | 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) |  | 10 to 10 times |"


def test_every_case_that_a_limit_is_asked_of_says_where_the_time_goes(capsys: pytest.CaptureFixture[str]) -> None:
    for case in CASES.values():
        if not case.long:
            assert case.profile.strip(), case.name
    assert program.explain(Namespace(case=["echo"])) == 0
    assert capsys.readouterr().out.endswith(f"\n\n{CASES['echo'].title} (echo)\n{CASES['echo'].profile}\n")


def test_what_is_asked_for_is_what_is_measured() -> None:
    def wanted(*arguments: str) -> set[str]:
        return set(program.wanted(program.parser().parse_args(arguments)))

    usual = {name for name, case in CASES.items() if not case.long}
    assert wanted("run") == usual
    assert wanted("run", "--all") == set(CASES)
    assert wanted("record") == usual | set(plots.SCALES)
    assert wanted("run", "--story") == set(story.CASES) < wanted("run", "--quick") < usual
    assert wanted("record", "--case", "echo") == {"echo"}


# --- gates on time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "holds"), [(1.0, True), (1.7, True), (1.8, False)])
def test_the_ceilings_have_room_for_noise_and_no_more(factor: float, holds: bool, testbed: Testbed) -> None:
    case = CASES["file-read"].on(["trio"])
    seconds = {"ceiling": 1.0, "idiom": 100.0, "roket": factor, "peer": 1.0}
    samples = {way: [Sample(seconds[way.role], 1.0, MIB, "")] * 5 for way in case.ways}
    findings = gate.ceilings(rows(case, samples, testbed))
    assert {finding.what for finding in findings} == {"× ceiling", "× faster"}
    assert next(finding.holds for finding in findings if finding.what == "× ceiling") is holds  # the limit is 1.6
    assert gate.verdict(findings)[0] == int(not holds)


def test_a_wide_interval_accuses_nobody(testbed: Testbed) -> None:
    case = CASES["file-read"].on(["trio"])
    calm, noisy = [1.0] * 5, [2.5, 1.0, 2.5, 1.0, 2.5]
    samples = {
        way: [Sample(seconds, 1.0, MIB, "") for seconds in (noisy if way.role == "roket" else calm)]
        for way in case.ways
    }
    found = next(finding for finding in gate.ceilings(rows(case, samples, testbed)) if finding.what == "× ceiling")
    assert found.found == "2.50 (1.00 to 2.50)"
    assert found.holds


# --- the sink ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["discard", "copy", "many"])
def test_the_sink_counts_every_byte_of_one_connection_after_the_other(how: str) -> None:
    with sink(how) as address:
        for size in (0, 1, 300_001):
            with socket.create_connection(address, LIMIT) as sender:
                sender.sendall(bytes(size))
                sender.shutdown(socket.SHUT_WR)
                assert sender.recv(64) == COUNT.pack(size)
                assert sender.recv(64) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, LIMIT)


def test_the_sink_of_many_counts_each_of_them_while_all_are_open() -> None:
    with sink("many") as address, contextlib.ExitStack() as stack:
        senders = [stack.enter_context(socket.create_connection(address, LIMIT)) for _ in range(20)]
        for number, sender in enumerate(senders):
            sender.sendall(bytes(number * 1000))
        for number, sender in enumerate(senders):
            sender.shutdown(socket.SHUT_WR)
            assert sender.recv(64) == COUNT.pack(number * 1000)


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
def test_the_source_sends_what_it_was_told_and_finishes(size: int) -> None:
    with source() as address:
        for _ in range(2):
            with socket.create_connection(address, LIMIT) as receiver:
                receiver.sendall(COUNT.pack(size))
                received = 0
                while piece := receiver.recv(1 << 20):
                    received += len(piece)
                assert received == size


def test_what_is_called_cold_is(testbed: Testbed) -> None:
    with cold_copy(testbed) as (path, cached):
        assert Path(path).stat().st_size == MIB
        if not os.path.realpath(path).startswith("/dev/shm"):
            assert cached < 0.5
        assert Path(path).read_bytes() == Path(testbed.source).read_bytes()
    assert not os.path.exists(path)


def test_the_sink_ends_with_its_parent() -> None:
    # The parent is killed, so it cannot say so.
    code = (
        "from benchmarks.endpoints.sinks import sink; import os, signal\n"
        "with sink('discard') as address:\n"
        "    print(address[1], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, timeout=LIMIT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(done.stdout)), LIMIT).close()
        except ConnectionRefusedError:
            break
        assert time.monotonic() < deadline, "the sink goes on without its parent"
        time.sleep(0.005)
