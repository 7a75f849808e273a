"""``roket bench`` as it is typed: options, exit codes, outputs. Limits are far from any figure a machine could have."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.roket_command import Ended, environment, roket, running
from support.waiting import wait_until

from roket_trio._kernel import procfs
from roket_trio.testing import SpeedResult, parse_results, parse_speed_results
from roket_trio.testing._bench import judging
from roket_trio.testing._bench.jobs import JOBS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a program takes is read from /proc")

PUSH = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock, open(sys.argv[3], "rb") as file:
    sock.sendfile(file)
"""
QUICK = ("--mib", "1", "--rounds", "1")

RESULT = SpeedResult("push", "it", 1, 9, 2.0, 1.9, 2.1, 500.0, 0.5, 3072, 0.1, "measured", {"cpu": "x"}, seconds=(1.0,))


@pytest.fixture
def push(tmp_path: Path) -> str:
    path = tmp_path / "push.py"
    path.write_text(PUSH, encoding="utf-8")
    return shlex.join([sys.executable, str(path)]) + " {host} {port} {file}"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ended:
    return roket(capsys, "bench", "--job", "push", *QUICK, *arguments)


def baseline(tmp_path: Path, *results: SpeedResult) -> str:
    path = tmp_path / "then.jsonl"
    path.write_text("".join(f"{result.to_json()}\n" for result in results), encoding="utf-8")
    return str(path)


def test_a_table_goes_to_standard_output_and_what_is_measured_to_standard_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, push: str
) -> None:
    jsonl, html = tmp_path / "now.jsonl", tmp_path / "now.html"
    done = bench(capsys, "--program", push, "--name", "mine", "--jsonl", str(jsonl), "--html", str(html))
    assert (done.code, done.errors) == (0, "push, 1 MiB, 1 rounds: mine\n")
    assert re.search(r"^  the ceiling +1\.00 ", done.output, re.MULTILINE)
    assert re.search(r"^  mine +[\d.]+ \[[\d.]+ [\d.]+\] .* measured$", done.output, re.MULTILINE)
    (result,) = parse_speed_results(jsonl.read_text().splitlines())
    assert (result.job, result.program, result.mib, result.rounds, result.verdict) == ("push", "mine", 1, 1, "measured")
    assert result.fingerprint["cpu"]
    assert "mine" in html.read_text()
    shown = roket(capsys, "report", str(jsonl))
    assert (shown.code, shown.output) == (0, done.output)


def test_a_limit_that_nothing_keeps_is_exit_code_1_and_one_that_all_keep_is_0(
    capsys: pytest.CaptureFixture[str], push: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "noise_of", lambda noise: 1.0)
    done = bench(capsys, "--program", push, "--at-most", "1e-5")
    assert done.code == 1
    assert "1e-05 allowed; measured twice" in done.output.replace("\n      ", " ")
    assert bench(capsys, "--program", push, "--at-most", "999999").code == 0


def test_a_noisy_machine_is_exit_code_0_unless_it_is_strict(
    capsys: pytest.CaptureFixture[str], push: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "noise_of", lambda noise: 1e9)
    arguments = ("--program", push, "--at-most", "1e-5", "--jsonl", "-")
    done = bench(capsys, *arguments)
    assert (done.code, json.loads(done.output)["verdict"]) == (0, "inconclusive")
    assert bench(capsys, *arguments, "--strict").code == 1


def test_a_program_that_has_become_slower_than_the_baseline_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, push: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "noise_of", lambda noise: 1.0)
    for ratio, code in ((1e-5, 1), (1e5, 0)):
        then = baseline(tmp_path, replace(RESULT, program=push, ratio=ratio, low=ratio, high=ratio))
        done = bench(capsys, "--program", push, "--baseline", then)
        assert done.code == code
        assert "another processor: x" in done.output.replace("\n      ", " ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file or directory"),
        (b"\xff\xfe", "it does not hold lines of JSON"),
        (b"not json\n", "line 1:"),
        (b'{"schema": "roket.speed/2"}\n', "line 1: the schema is not roket.speed/1"),
        (RESULT.to_json().replace("2.0", '"two"', 1).encode(), "line 1: not a result: ratio is 'two'"),
        (replace(RESULT, job="pull").to_json().encode(), "it has no result for push by it, but by nothing"),
        (replace(RESULT, program="another").to_json().encode(), "it has no result for push by it, but by another"),
        (b"", "but by nothing"),
    ],
)
def test_a_wrong_baseline_is_exit_code_5_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: bytes | None, why: str
) -> None:
    path = tmp_path / "then.jsonl"
    if text is not None:
        path.write_bytes(text)
    done = bench(capsys, "--program", "it {port}", "--name", "it", "--baseline", str(path))
    assert (done.code, done.output) == (5, "")
    assert why in done.last


def test_a_wrong_byte_is_exit_code_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(PUSH.replace("sock.sendfile(file)", "sock.sendall(file.read().replace(b'a', b'b', 1))"))
    done = bench(
        capsys, "--program", f"{shlex.quote(sys.executable)} {wrong} {{host}} {{port}} {{file}}", "--name", "it"
    )
    assert done.code == 1
    assert re.search(r"it: the byte at offset \d+ is wrong", done.output)
    assert re.search(r"^  it +error$", done.output, re.MULTILINE)


def test_a_program_that_does_not_run_is_exit_code_6_and_has_no_verdict(
    capsys: pytest.CaptureFixture[str], push: str
) -> None:
    done = bench(capsys, "--program", "/nowhere/program {port}", "--program", push, "--jsonl", "-")
    assert (done.code, len(done.output.splitlines())) == (6, 1)
    assert "/nowhere/program does not start: No such file or directory" in done.last


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--program", "nc"), "has no {port}, which push needs"),
        (("--program", "nc {port}", "--name", "a", "--name", "b"), "1 programs and 2 names"),
        (("--program", "nc {port}", "--program", "nc {port}"), "the same name"),
        (("--program", ""), "the command is empty"),
        (("--program", "'{port}"), "quotation"),
        (("--program", "nc {port}", "--at-most", "0"), "a number of times above 0"),
        (("--program", "nc {port}", "--tolerance", "-1"), "a share from 0 on"),
        (("--program", "nc {port}", "--mib", "0"), "a whole number"),
        (("--program", "nc {port}", "--rounds", "x"), "a whole number"),
        (("--program", "nc {port}", "--format", "xml"), "invalid choice"),
        ((), "--program"),
    ],
)
def test_wrong_arguments_are_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], why: str
) -> None:
    done = bench(capsys, *arguments)
    assert (done.code, done.output) == (2, "")
    assert why in done.last


def test_help_alone_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    done = roket(capsys, "bench", "--help")
    assert done.code == 0
    for word in (*JOBS, "{host}", "{port}", "{file}", "{directory}", "{target_host}", "{target_port}", "inconclusive"):
        assert word in done.output


@pytest.mark.parametrize("kind", ["bencher", "github-action-benchmark"])
def test_others_take_what_is_printed_for_them(capsys: pytest.CaptureFixture[str], push: str, kind: str) -> None:
    done = bench(capsys, "--program", push, "--name", "it", "--format", kind)
    found = json.loads(done.output)
    if kind == "bencher":
        measures = found["push, 1 MiB: it"]
        assert set(measures) == {"times-ceiling", "cpu-seconds-per-gib", "peak-rss", "start"}
        times = measures["times-ceiling"]
        assert times["lower_value"] <= times["value"] <= times["upper_value"]
    else:
        assert {"name", "unit", "value"} <= set(found[0])
        assert found[0]["name"] == "push, 1 MiB: it (times-ceiling)"


def test_progress_is_shown_when_it_is_asked_for(capsys: pytest.CaptureFixture[str], push: str) -> None:
    done = bench(capsys, "--program", push, "--name", "it", "--progress", "json", "--jsonl", "-")
    lines = [json.loads(line) for line in done.errors.splitlines()[1:]]
    assert lines
    assert re.fullmatch(r"run \d+ of 6: (ceiling|ceiling, again|it)", lines[0]["progress"]["phase"])


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_whatever_ends_it_ends_the_programs(tmp_path: Path, kill: bool) -> None:
    pids = tmp_path / "pids"
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text(f"import os, time\nopen({str(pids)!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)\n")
    it = f"{shlex.quote(sys.executable)} {sleeper} {{port}}"
    with running("bench", "--job", "push", *QUICK, "--program", it) as program:
        wait_until(lambda: pids.exists() and bool(pids.read_text()), "the program runs")
        if kill:
            program.kill()
        else:
            program.terminate()
            assert program.wait(60) == 143
            assert program.stderr is not None
            assert "interrupted by SIGTERM" in program.stderr.read()
    pid = int(pids.read_text())
    wait_until(lambda: not procfs.is_alive(pid), "the program has ended")


# --- results of other runs ------------------------------------------------------------------------------------------


HOSTILE = replace(RESULT, program="<script>alert(1)</script>\x1b[2J", reason="</section>\x1b]0;x\x07", notes=("<b>",))


def test_names_and_reasons_are_text_for_terminals_and_pages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, page = baseline(tmp_path, HOSTILE), tmp_path / "page.html"
    done = roket(capsys, "report", path, "--html", str(page))
    assert "\x1b" not in done.output
    assert "<script>alert" not in page.read_text()
    assert "&lt;script&gt;alert" in page.read_text()


def test_a_file_may_hold_results_of_checks_and_of_speed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    close = (
        '{"schema": "roket.close/1", "case": "close/1.1", "level": "MUST", "role": "client", "target": "nc", "data":'
        ' "complete", "close": "clean", "verdict": "pass", "bytes": 1, "ms": 1, "events": [], "observer": "peer",'
        ' "repro": "", "reason": ""}'
    )
    path, page = tmp_path / "both.jsonl", tmp_path / "page.html"
    path.write_text(f"{RESULT.to_json()}\n{close}\n", encoding="utf-8")
    lines = path.read_text().splitlines()
    assert [result.target for result in parse_results(lines)] == ["nc"]
    assert [result.program for result in parse_speed_results(lines)] == ["it"]
    done = roket(capsys, "report", str(path), "--html", str(page))
    assert done.code == 0
    assert "push, 1 MiB" in done.output
    assert "1 passed" in done.output
    assert page.read_text().count("</body>") == 1
    assert 'id="speed"' in page.read_text()


@pytest.mark.parametrize(
    ("verdict", "codes"), [("pass", (0, 0)), ("inconclusive", (0, 1)), ("fail", (1, 1)), ("error", (1, 1))]
)
def test_a_report_has_the_exit_code_of_what_it_shows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verdict: str, codes: tuple[int, int]
) -> None:
    path = baseline(tmp_path, replace(RESULT, verdict=verdict))  # type: ignore[arg-type]
    assert (roket(capsys, "report", path).code, roket(capsys, "report", path, "--strict").code) == codes


def test_a_result_survives_its_line() -> None:
    assert list(parse_speed_results([HOSTILE.to_json(), "", RESULT.to_json()])) == [HOSTILE, RESULT]
    later = json.loads(RESULT.to_json()) | {"what is yet to come": 1}
    assert list(parse_speed_results([json.dumps(later)])) == [RESULT]


@pytest.mark.parametrize(
    "changed",
    [
        {"ratio": "x"},
        {"ratio": float("nan")},
        {"mib": -1},
        {"mib": True},
        {"verdict": "good"},
        {"notes": "x"},
        {"seconds": ["x"]},
        {"fingerprint": []},
        {"job": None},
        {"low": True},
    ],
)
def test_fields_of_the_wrong_kind_are_refused(changed: dict[str, object]) -> None:
    line = json.dumps(json.loads(RESULT.to_json()) | changed)
    with pytest.raises(ValueError, match="line 1: not a result"):
        list(parse_speed_results([line]))
