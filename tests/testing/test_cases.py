"""The close suite: a good program is never accused, and each bad one is caught by the case that is named for it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from roket_trio._kernel.procfs import is_alive
from roket_trio.testing import ListeningPeer, payload
from roket_trio.testing._close_suite import case_run
from roket_trio.testing._close_suite.cases import CASES, case
from roket_trio.testing._close_suite.jobs import JOBS
from roket_trio.testing._close_suite.judging import (
    CaseExpectation,
    CaseObservation,
    CaseVerdict,
    ObservedConnection,
    judge,
)
from roket_trio.testing._close_suite.ports import free_port
from roket_trio.testing._close_suite.programs import RunningProgram, Target
from roket_trio.testing._close_suite.runner import run_case
from roket_trio.testing._http_suite.cases import HTTP_CASES
from roket_trio.testing._peers.timeline import Event
from roket_trio.testing._results.case_result import (
    CaseResult,
    Data,
    ResultEvent,
    Role,
    failures,
    parse_result,
    parse_results,
)
from roket_trio.testing._results.close_verdict import Close

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the close suite needs Linux")

CLOSERS = Path(__file__).parents[1] / "support" / "closers.py"
WITHIN = 8.0  # seconds; a good program takes a few milliseconds
AT_ONCE = 12  # cases mostly wait


def closer(role: Role, mutant: str = "") -> Target:
    words = ["env", f"MUTANT={mutant}", sys.executable, str(CLOSERS)]
    return Target(mutant or "a good program", role, "contract", tuple(words))


def told(result: CaseResult) -> str:
    events = "\n".join(
        f"  {event.ms:6} {event.who} {event.what} {event.bytes or ''} {event.detail}" for event in result.events
    )
    return f"{result.case} {result.role}: {result.data}, {result.close}: {result.verdict}: {result.reason}\n{events}"


# --- programs --------------------------------------------------------------------------------------------------------


def test_a_good_program_is_never_accused() -> None:
    """``ROKET_CASE_RUNS=100`` runs each case a hundred times: try it on a machine that has other work to do as well."""
    often = int(os.environ.get("ROKET_CASE_RUNS", "1"))
    runs = [(one, role) for _ in range(often) for one in CASES for role in one.roles]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda run: run_case(run[0], closer(run[1]), within=WITHIN), runs))
    assert not [told(result) for result in results if result.verdict != "pass"]
    assert all(result.observer.startswith("peer") for result in results)


# Which cases a mutant's fault could show in: those with its job. It must show in its own alone.
MUTANTS: list[tuple[str, Role]] = [
    ("close/1.1", "client"),
    ("close/1.2", "client"),
    ("close/1.3", "client"),
    ("close/1.4", "client"),
    ("close/1.5", "client"),
    ("close/2.1", "client"),
    ("close/2.2", "client"),
    ("close/2.3", "server"),
    ("close/2.4", "client"),
    ("close/3.1", "client"),
    ("close/3.2", "client"),
    ("close/3.3", "client"),
    ("close/3.4", "client"),
    ("close/4.1-loses", "client"),
    ("close/4.1-lies", "client"),
    ("close/4.2", "client"),
    ("close/4.3", "client"),
    ("close/5.1", "server"),
    ("close/5.2", "server"),
    ("close/5.3", "server"),
    ("close/5.4", "server"),
    ("close/5.5", "server"),
    ("close/5.6", "server"),
    ("close/6.1", "client"),
    ("close/6.2", "client"),
    ("close/6.3", "client"),
]


def test_each_mutant_is_caught_by_its_own_case_alone() -> None:
    runs = []
    for mutant, role in MUTANTS:
        job = case(mutant.partition("-")[0]).job
        runs += [(one, role, mutant) for one in CASES if one.job == job and role in one.roles]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda run: run_case(run[0], closer(run[1], run[2]), within=2.0), runs))
    caught = {(result.target, result.case) for result in results if result.verdict == "fail"}
    expected = {(mutant, mutant.partition("-")[0]) for mutant, _ in MUTANTS}
    wrong = caught ^ expected
    assert not wrong, "\n".join(told(result) for result in results if (result.target, result.case) in wrong)


def test_the_table_is_in_order() -> None:
    addresses = [one.address for one in CASES]
    assert addresses == sorted(addresses)
    assert len(set(addresses)) == len(addresses)
    assert {one.level for one in CASES} == {"MUST", "SHOULD", "INFO"}
    for one in CASES:
        assert re.fullmatch(r"close/\d\.\d", one.address)
        assert one.job in JOBS
        assert one.why.endswith((".", ")."))
        assert one.symptom.endswith(".")
        assert not one.title[0].isupper() or one.title.startswith(("FIN", "RST", "TLS"))
        assert len(one.rounds) == 1 or one.roles == ("server",)
    assert set(JOBS) == {one.job for one in (*CASES, *HTTP_CASES) if one.job}
    assert case("close/2.1").job == "send-close"
    with pytest.raises(KeyError, match="no case"):
        case("close/9.9")


# --- hostile and hopeless programs -----------------------------------------------------------------------------------


def python(code: str, role: Role = "client", **more: object) -> Target:
    return Target("it", role, "contract", (sys.executable, "-c", code), **more)  # type: ignore[arg-type]


def test_a_program_may_say_that_it_cannot() -> None:
    started = time.monotonic()
    for role in ("client", "server"):
        result = run_case(case("close/1.1"), python("raise SystemExit(127)", role))
        assert (result.verdict, result.data, result.close) == ("unsupported", "not-observed", "not-observed")
    assert time.monotonic() - started < 8  # nobody waits for it to connect or to listen


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_program_that_does_nothing_fails_in_time(role: Role) -> None:
    started = time.monotonic()
    result = run_case(case("close/1.1"), python("import time; time.sleep(60)", role, start_seconds=0.3))
    does = {"client": "did not connect", "server": "does not listen on 127.0.0.1:"}[role]
    assert result.verdict == "fail"
    assert result.reason.startswith("0 of 1 connections came about")
    assert does in result.reason
    assert result.reason.endswith("within 0.3 s")
    assert time.monotonic() - started < 20


def test_a_plain_programs_127_is_a_failure_to_start_it() -> None:
    """A shell's "command not found": only a program that knows the contract can decline a case."""
    target = Target.from_command("sh -c 'no-such-command {port}'", "client")
    result = run_case(case("close/1.4"), target)
    assert (target.speaks, result.verdict) == ("pipe", "fail")
    assert result.reason.startswith("0 of 1 connections came about: exit status 127: ")
    assert "not found" in result.reason


def test_where_nobody_listens_is_told() -> None:
    target = Target("gone", "server", "any", None, "127.0.0.1", 1, start_seconds=0.1)
    assert run_case(case("close/1.1"), target).reason.endswith(": nobody listens on 127.0.0.1:1")


def test_a_program_that_ends_before_its_connection_is_accepted_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    accept = ListeningPeer._accept

    def accepts_late(self: ListeningPeer, listener: socket.socket) -> None:
        time.sleep(1.5)  # the machine does not run the peer's thread; the connection waits in the kernel's queue
        accept(self, listener)

    monkeypatch.setattr(ListeningPeer, "_accept", accepts_late)
    code = "import os, socket\nsocket.create_connection((os.environ['ROKET_HOST'], int(os.environ['ROKET_PORT'])))"
    result = run_case(case("close/1.1"), python(code), within=WITHIN)
    assert result.verdict == "pass", told(result)


def test_a_script_lasts_as_long_as_the_program_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_run, "_SCRIPT_SECONDS", 0.1)
    code = (
        "import os, socket, time\n"
        "s = socket.create_connection((os.environ['ROKET_HOST'], int(os.environ['ROKET_PORT'])))\n"
        "s.recv(1); time.sleep(0.8); s.close(); input()"
    )
    result = run_case(case("close/1.1"), python(code), within=WITHIN)
    assert result.verdict == "pass", told(result)


def test_what_a_program_says_is_quoted_in_part() -> None:
    code = (
        "import os, socket, time\n"
        "s = socket.create_connection((os.environ['ROKET_HOST'], int(os.environ['ROKET_PORT'])))\n"
        "print('\\x1b' * 60000, flush=True); s.close(); time.sleep(60)"
    )
    result = run_case(case("close/3.4"), python(code), within=0.5)
    assert result.data == "corrupt"
    assert "it said" in result.reason
    assert len(result.reason) < 500


def test_a_program_that_cannot_be_started_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        run_case(case("close/1.1"), Target("it", "client", "contract", ("/no/such/program",)))


def test_a_case_for_others_is_refused() -> None:
    with pytest.raises(ValueError, match="is not for a client"):
        run_case(case("close/5.2"), python("pass"))
    with pytest.raises(ValueError, match="of the kind 'any'"):
        run_case(case("close/1.3"), Target("it", "client", "any", ("true",)))


HOSTILE = {
    "prints for ever": "import sys\nwhile True: sys.stdout.write('x' * 65536); sys.stderr.write('y' * 65536)",
    "reads no input and ignores every signal": "import signal, time\n"
    "for n in range(1, 32):\n try: signal.signal(n, signal.SIG_IGN)\n except (OSError, ValueError): pass\n"
    "time.sleep(60)",
    "leaves a child behind": "import os, sys, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(60)\ntime.sleep(60)",
    "closes its standard streams": "import os, time\nfor fd in range(3): os.close(fd)\ntime.sleep(60)",
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_program_is_ended(hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connects = (
        "import os, socket\ns = socket.create_connection((os.environ['ROKET_HOST'], int(os.environ['ROKET_PORT'])))\n"
    )
    pids: list[int] = []

    class Noted(RunningProgram):  # type: ignore[misc]  # final, but for this
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, **more)  # type: ignore[arg-type]
            pids.append(self.pid)

    monkeypatch.setattr(case_run, "RunningProgram", Noted)
    started = time.monotonic()
    result = run_case(case("close/1.1"), python(connects + HOSTILE[hostile]), within=0.3)
    assert result.verdict == "fail"
    assert result.close == "leaked"
    assert time.monotonic() - started < 20
    (pid,) = pids
    assert not os.path.exists(f"/proc/{pid}")


def test_a_server_whose_handlers_fail_at_once_is_not_taken_for_one_that_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the reset is quicker than the look at how connect(2) went, that fails although somebody has accepted."""
    asked: list[object] = []
    connect = socket.create_connection

    def is_reset_once(*how: object) -> socket.socket:
        asked.append(how)
        if len(asked) == 1:
            raise ConnectionResetError
        return connect(*how)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_connection", is_reset_once)
    result = run_case(case("close/5.4"), closer("server"), within=WITHIN)
    assert result.verdict == "pass", told(result)
    assert len(asked) == 2


def test_descendants_are_ended_too() -> None:
    code = (
        "import os, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(60)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    with RunningProgram([sys.executable, "-c", code], {}) as program:
        deadline = time.monotonic() + 10
        while b"ready" not in program.output_head:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with open(f"/proc/{program.pid}/task/{program.pid}/children") as file:
            (child,) = map(int, file.read().split())
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("address", ["close/1.1", "close/4.3"])
def test_a_daemon_is_seen_and_ended_although_it_descends_from_nobody(address: str, tmp_path: Path) -> None:
    code = (
        "import os, socket, sys, time\n"
        "s = socket.create_connection((os.environ['ROKET_HOST'], int(os.environ['ROKET_PORT'])))\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        f"with open({str(tmp_path / 'pid')!r}, 'w') as file: file.write(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    result = run_case(case(address), python(code), within=0.5)
    assert (result.close, result.verdict) == ("leaked", "fail"), told(result)
    pid = int((tmp_path / "pid").read_text())
    try:
        deadline = time.monotonic() + 10
        while is_alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_program_is_fed_and_listened_to() -> None:
    code = "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data); sys.stderr.write('so it is\\n')"
    with RunningProgram([sys.executable, "-c", code], {"ROKET_CASE": "x"}) as program:
        program.feed(payload(3_000_000))
        program.close_input()
        program.wait_output_read(20)
        assert program.check.good_bytes == 3_000_000
        assert program.output_head == payload(1 << 16)
        assert program.errors == "so it is\n"
        deadline = time.monotonic() + 10
        while program.exit_status is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert program.exit_status == 0


@pytest.mark.parametrize("says", [b"", b"no TLS at all\r\n", b"\x16\x03\x01\xff\xff" + bytes(70000)])
def test_a_program_that_speaks_no_tls_fails_and_breaks_nothing(says: bytes) -> None:
    code = (
        "import os, socket, time\n"
        "s = socket.create_connection((os.environ['ROKET_HOST'], int(os.environ['ROKET_PORT'])))\n"
        f"s.send({says[:40]!r} + bytes({max(0, len(says) - 40)}))\ntime.sleep(60)"
    )
    found = run_case(case("close/6.1"), python(code), within=0.3)
    assert (found.verdict, found.bytes) == ("fail", 0)
    assert any(event.what == "failed" and event.detail.startswith("TLS") for event in found.events)


def test_a_signal_is_told_in_the_events() -> None:
    result = run_case(case("close/1.1"), python("import os, signal; os.kill(os.getpid(), signal.SIGTERM)"))
    assert any(event.detail == f"killed by signal {signal.SIGTERM:d}" for event in result.events)


def test_what_a_program_says_at_its_end_is_in_the_events() -> None:
    result = run_case(case("close/1.1"), python("raise SystemExit('no such option')"))
    assert any(event.detail == "exit status 1: no such option" for event in result.events)


# --- plain programs --------------------------------------------------------------------------------------------------


def test_a_command_is_split_as_a_shell_would_and_run_without_one() -> None:
    target = Target.from_command("'a b' --to {host}:{port} '$HOME; {port}'", "client")
    assert (target.name, target.speaks) == ("a b", "pipe")
    assert target.argv("127.0.0.1", 5) == ["a b", "--to", "127.0.0.1:5", "$HOME; 5"]
    assert Target.from_command("./driver.py", "client").speaks == "contract"
    assert Target.from_command("./server", "server", port=80).speaks == "any"
    assert Target.from_command("./server {port}", "server", speaks="echo", name="mine").name == "mine"
    with pytest.raises(ValueError, match="empty"):
        Target.from_command("  ", "client")


NC = "import socket, sys, threading\ns = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"


def test_a_plain_pipe_is_put_to_the_cases_of_pipes() -> None:
    code = NC + (
        "def up():\n"
        " while d := sys.stdin.buffer.read1(65536): s.sendall(d)\n"
        " s.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while d := s.recv(65536): sys.stdout.buffer.write(d); sys.stdout.buffer.flush()\n"
    )
    target = Target("pipe", "client", "pipe", (sys.executable, "-c", code, "{host}", "{port}"))
    names = [one.address for one in CASES if one.is_for("client", "pipe")]
    assert names == ["close/1.2", "close/1.3", "close/1.4", "close/3.5", "close/4.2", "close/4.3"]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda name: run_case(case(name), target, within=WITHIN), names[:3]))
    assert not [told(result) for result in results if result.verdict != "pass"]


def test_a_server_that_is_running_is_judged_by_what_its_peers_see() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = Target("running", "server", "any", None, *listener.getsockname())
        result = run_case(case("close/1.1"), target, within=0.2)
        assert (result.close, result.verdict, result.observer) == ("half-open", "fail", "peer")
        host, port = listener.getsockname()
        mine = Target("running", "server", "any", None, host, port, pid=os.getpid())
        result = run_case(case("close/1.1"), mine, within=0.2)
        assert (result.close, result.verdict) == ("leaked", "fail")
        assert "sock_diag" in result.observer
    result = run_case(case("close/1.1"), Target("gone", "server", "any", None, "127.0.0.1", 1, start_seconds=0.1))
    assert (result.data, result.close, result.verdict) == ("hung", "not-observed", "fail")


def test_what_cannot_be_brought_about_is_no_pass() -> None:
    """The limit of descriptors of a server that is running already."""
    port = free_port()
    serves = {"ROKET_CASE": "close/5.5", "ROKET_ROLE": "server", "ROKET_JOB": "echo"}
    serves |= {"ROKET_HOST": "127.0.0.1", "ROKET_PORT": str(port)}
    with RunningProgram(closer("server").argv("", 0), serves) as program:
        running = Target("running", "server", "echo", None, "127.0.0.1", port, pid=program.pid)
        result = run_case(case("close/5.5"), running, within=WITHIN)
    assert (result.close, result.verdict) == ("clean", "not-observed"), told(result)
    assert "its limit of descriptors could not be set" in result.reason


def test_a_reset_does_not_come_before_a_slow_server_has_accepted() -> None:
    """On a loaded machine: servers drop what was reset in the listen queue, and may."""
    code = (
        "import os, socket, sys, time\n"
        "l = socket.create_server((os.environ['ROKET_HOST'], int(os.environ['ROKET_PORT'])))\n"
        "time.sleep(0.7)\n"
        "port = ':%04X' % l.getsockname()[1]\n"
        "rows = [line.split() for line in open('/proc/net/tcp')]\n"
        "assert any(row[1].endswith(port) and row[3] == '01' for row in rows)  # established still\n"
        "s, _ = l.accept()\n"
        "time.sleep(1)\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    result = run_case(case("close/4.1"), python(code, "server"), within=WITHIN)
    assert result.verdict == "pass", told(result)


def test_a_program_that_sends_more_than_the_limit_is_not_accused_of_an_end_that_could_not_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(case_run, "_MAX_BYTES", 1 << 20)
    code = (
        "import os, socket\n"
        "s = socket.create_connection((os.environ['ROKET_HOST'], int(os.environ['ROKET_PORT'])))\n"
        "try: s.sendall(bytes(4 << 20))\n"
        "except OSError: pass\n"
        "s.close(); input()"
    )
    result = run_case(case("close/1.1"), python(code), within=WITHIN)
    assert (result.close, result.verdict) == ("not-observed", "not-observed"), told(result)
    assert "more than 1,048,576 bytes moved" in result.reason


# --- verdicts: pure --------------------------------------------------------------------------------------------------


def seen(*kinds: str, received: int = 0, good: int | None = None, is_held: bool | None = False) -> ObservedConnection:
    """A connection on which these things happened, one a second."""
    events = tuple(Event(float(second), kind, until=float(second)) for second, kind in enumerate(kinds))  # type: ignore[arg-type]
    return ObservedConnection(events, received, received if good is None else good, is_held)


def observed(
    *connections: ObservedConnection, output: int = 0, good: int | None = None, head: bytes = b"", **more: object
) -> CaseObservation:
    found: dict[str, Any] = {
        "expected_connections": len(connections),
        "is_output_observed": True,
        "exit_status": 0,
        "has_exited": True,
        "was_alive": True,
        **more,
    }
    return CaseObservation(
        connections, output_bytes=output, output_good_bytes=output if good is None else good, output_head=head, **found
    )


WHOLE: tuple[tuple[Data, Close]] = (("complete", "clean"),)
UPLOAD = CaseExpectation(WHOLE, upload=10)
DOWNLOAD = CaseExpectation(WHOLE, download=10)

VERDICTS: dict[str, tuple[CaseExpectation, CaseObservation, tuple[str, str, str]]] = {
    "all of it and FIN": (
        UPLOAD,
        observed(seen("connected", "fin seen", received=10)),
        ("complete", "clean", "pass"),
    ),
    "a part and FIN": (
        UPLOAD,
        observed(seen("connected", "fin seen", received=9)),
        ("truncated", "clean", "fail"),
    ),
    "a part and RST": (UPLOAD, observed(seen("rst seen", received=9)), ("truncated", "reset", "fail")),
    "all and RST": (UPLOAD, observed(seen("rst seen", received=10)), ("complete", "reset", "fail")),
    "a part and nothing more": (
        UPLOAD,
        observed(seen("connected", received=9), has_exited=False, exit_status=None),
        ("hung", "half-open", "fail"),
    ),
    "other bytes": (UPLOAD, observed(seen("fin seen", received=10, good=3)), ("corrupt", "clean", "fail")),
    "too many bytes": (UPLOAD, observed(seen("fin seen", received=11, good=11)), ("corrupt", "clean", "fail")),
    "any bytes will do": (
        CaseExpectation(WHOLE, upload=10, checks_upload=False),
        observed(seen("fin seen", received=10, good=0)),
        ("complete", "clean", "pass"),
    ),
    "written out": (DOWNLOAD, observed(seen("fin seen"), output=10), ("complete", "clean", "pass")),
    "written out in part, and it has ended": (
        DOWNLOAD,
        observed(seen("fin seen"), output=4),
        ("truncated", "clean", "fail"),
    ),
    "written out in part, and it goes on": (
        DOWNLOAD,
        observed(seen("fin seen"), output=4, has_exited=False, exit_status=None),
        ("hung", "clean", "fail"),
    ),
    "what it writes is not observed": (
        DOWNLOAD,
        observed(seen("fin seen"), is_output_observed=False, has_exited=None, exit_status=None),
        ("not-observed", "clean", "not-observed"),
    ),
    "not observed, and wrong all the same": (
        DOWNLOAD,
        observed(seen("rst seen"), is_output_observed=False, has_exited=None, exit_status=None),
        ("not-observed", "reset", "fail"),
    ),
    "nothing is asked of the data": (
        CaseExpectation((("*", "clean"),)),
        observed(seen("fin seen", received=3)),
        ("not-observed", "clean", "pass"),
    ),
    "the word": (
        CaseExpectation(WHOLE, says="closed"),
        observed(seen("fin seen"), head=b"closed\n"),
        ("complete", "clean", "pass"),
    ),
    "another word": (
        CaseExpectation(WHOLE, says="closed"),
        observed(seen("fin seen"), head=b"eof\n"),
        ("corrupt", "clean", "fail"),
    ),
    "no word": (CaseExpectation(WHOLE, says="closed"), observed(seen("fin seen")), ("hung", "clean", "fail")),
    "FIN in time": (
        CaseExpectation((("*", "clean"),), trigger="fin sent", within=2.0),
        observed(seen("connected", "fin sent", "stalled", "fin seen")),
        ("not-observed", "clean", "pass"),
    ),
    "FIN late": (
        CaseExpectation((("*", "clean"),), trigger="fin sent", within=1.5),
        observed(seen("connected", "fin sent", "stalled", "fin seen")),
        ("not-observed", "late", "fail"),
    ),
    "FIN only in answer to the peer's": (
        CaseExpectation(WHOLE, upload=1, trigger="received", within=1.5),
        observed(seen("connected", "received", "fin sent", "fin seen", received=1)),
        ("complete", "half-open", "fail"),
    ),
    "FIN before the peer's": (
        CaseExpectation((("*", "clean"),), trigger="fin sent", within=0.5),
        observed(seen("connected", "fin seen", "fin sent")),
        ("not-observed", "clean", "pass"),
    ),
    "FIN, and the descriptor stays": (
        UPLOAD,
        observed(seen("fin seen", received=10, is_held=True)),
        ("complete", "leaked", "fail"),
    ),
    "no end, and the process holds it": (
        CaseExpectation((("*", "clean"), ("*", "reset"))),
        observed(seen("connected", is_held=True)),
        ("not-observed", "leaked", "fail"),
    ),
    "reset by the peer, and let go": (
        CaseExpectation((("*", "clean"),), is_reset_by_peer=True),
        observed(seen("rst sent")),
        ("not-observed", "clean", "pass"),
    ),
    "reset by the peer, and nobody can see the descriptor": (
        CaseExpectation((("*", "clean"),), is_reset_by_peer=True),
        observed(seen("rst sent", is_held=None)),
        ("not-observed", "not-observed", "not-observed"),
    ),
    "it must fail and does": (
        CaseExpectation(WHOLE, download=10, must_fail=True),
        observed(seen("fin seen"), output=10, exit_status=1),
        ("complete", "clean", "pass"),
    ),
    "it must fail and tells success": (
        CaseExpectation(WHOLE, download=10, must_fail=True),
        observed(seen("fin seen"), output=10),
        ("complete", "clean", "fail"),
    ),
    "it must fail and goes on": (
        CaseExpectation(WHOLE, download=10, must_fail=True),
        observed(seen("fin seen"), output=10, has_exited=False, exit_status=None),
        ("hung", "clean", "fail"),
    ),
    "it must fail and is not ours": (
        CaseExpectation((("*", "clean"),), must_fail=True),
        observed(seen("fin seen"), has_exited=None, exit_status=None),
        ("not-observed", "clean", "not-observed"),
    ),
    "it must live and has died": (
        CaseExpectation((("*", "clean"),), must_live=True),
        observed(seen("fin seen"), was_alive=False),
        ("not-observed", "clean", "fail"),
    ),
    "it cannot": (UPLOAD, observed(exit_status=127), ("not-observed", "not-observed", "unsupported")),
    "it did not connect": (UPLOAD, observed(expected_connections=1), ("hung", "not-observed", "fail")),
    "the worst of several": (
        CaseExpectation((("*", "clean"),)),
        observed(seen("fin seen"), seen("connected"), seen("fin seen")),
        ("not-observed", "half-open", "fail"),
    ),
    "cut and reset": (
        CaseExpectation((("truncated", "reset"), ("complete", "clean")), upload=10),
        observed(seen("rst seen", received=3)),
        ("truncated", "reset", "pass"),
    ),
    "cut and FIN": (
        CaseExpectation((("truncated", "reset"), ("complete", "clean")), upload=10),
        observed(seen("fin seen", received=3)),
        ("truncated", "clean", "fail"),
    ),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_verdicts(name: str) -> None:
    expectation, observation, wanted = VERDICTS[name]
    found = judge(expectation, observation)
    assert (found.data, found.close, found.verdict) == wanted
    assert isinstance(found, CaseVerdict)
    assert found.reason


# --- results ---------------------------------------------------------------------------------------------------------


def result(**changes: object) -> CaseResult:
    found: dict[str, object] = {
        "case": "close/1.1",
        "level": "MUST",
        "role": "client",
        "target": "it",
        "data": "complete",
        "close": "clean",
        "verdict": "pass",
        "bytes": 5,
        "ms": 12,
        "events": (ResultEvent(3, "peer", 0, "fin seen"),),
        "observer": "peer",
        "repro": "roket check --case close/1.1",
        "reason": "the peer saw FIN",
        **changes,
    }
    return CaseResult(**found)  # type: ignore[arg-type]


def test_a_result_is_one_line_and_comes_back() -> None:
    one = result(target='a "strange" näme\n')
    line = one.to_json()
    assert "\n" not in line
    assert parse_result(line) == one
    fields = {"schema", "case", "level", "role", "target", "data", "close", "verdict", "bytes", "ms", "events"}
    assert set(json.loads(line)) == fields | {"observer", "repro", "reason"}
    assert json.loads(line)["schema"] == "roket.close/1"
    assert list(parse_results([line + "\n", "\n", line])) == [one, one]


@pytest.mark.parametrize("line", ["", "[]", "{}", "null", '{"schema": "roket.close/1"}', '{"schema": "other/1"}', "no"])
def test_what_is_no_result_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_result(line)
    if line:
        with pytest.raises(ValueError, match="line 2: "):
            list(parse_results(["", line]))


def test_musts_decide_and_with_strict_shoulds_too() -> None:
    results = [
        result(verdict="fail"),
        result(verdict="fail", level="SHOULD"),
        result(verdict="fail", level="INFO"),
        result(verdict="not-observed"),
        result(verdict="unsupported"),
    ]
    assert failures(results) == results[:1]
    assert failures(results, strict=True) == results[:2]
