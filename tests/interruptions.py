"""``roket send`` and ``roket recv``, interrupted at random, again and again: nothing is lost, nothing is corrupted.

    python tests/interruptions.py ROUNDS [SEED]

Each round is one transfer of some kind (:data:`KINDS`) and one accident (:data:`ACCIDENTS`) at a random moment: a
signal for either side, or something that a relay between them does. What must hold then is in :meth:`Round.judge`. The
kind that can be resumed goes on with what the rounds before have left, until the file is there.

Both commands run as processes of their own, which are forked from this one: to start interpreters by the hundred would
take the time. Prints one line of JSON; on a violation it says which round, and the exit status is 1.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from support.programs import is_listening

from roket_trio._cli import main
from roket_trio._cli.commands import recv, send  # noqa: F401 - before the fork
from roket_trio._files.atomic import SUFFIX
from roket_trio.testing import Bandwidth, ChaosRelay, LimitData, OneWayFin, ResetPeer, Slicer, SwallowFin, Timeout

LIMIT: Final = 60.0  # seconds, for whatever is waited for
WORKERS: Final = 4  # rounds at the same time: they mostly wait
SIZE: Final = 1_500_001
KINDS: Final = {"raw": [], "tree": [], "digest": ["--digest"], "resume": ["--resume"]}
if not hasattr(tarfile, "data_filter"):  # Python 3.11.3 and earlier: no archive is unpacked
    del KINDS["tree"]
DIRECTIONS: Final[list[Literal["upstream", "downstream"]]] = ["upstream", "downstream"]
SIGNALS: Final = {"kill": signal.SIGKILL, "int": signal.SIGINT, "term": signal.SIGTERM}
CODES: Final = {0, 1, 3, 4, 5, 6, 130, 143, -signal.SIGKILL, -signal.SIGTERM}  # the last: before it had begun

# What a relay does, from a random moment on. The FIN that it makes up is one that raw TCP must take for the end.
CHAOS: Final[dict[str, Callable[[random.Random], Any]]] = {
    "reset": lambda chance: ResetPeer(0.0),
    "silence": lambda chance: Timeout(None),
    "close": lambda chance: LimitData(chance.randrange(1, SIZE)),
    "made-up FIN": lambda chance: OneWayFin(chance.randrange(1, SIZE)),
    "swallowed FIN": lambda chance: SwallowFin(),
    "slices": lambda chance: Slicer(5_000, 4_000, 0.0005),
    "slowness": lambda chance: Bandwidth(chance.choice([1e6, 5e6])),
}
ACCIDENTS: Final = ["nothing", *[*SIGNALS] * 3, *CHAOS]


def forked(work: Callable[[], int]) -> int:
    """Run it in a process of its own; returns the process's number."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        code = work()
    except BaseException:
        sys.excepthook(*sys.exc_info())  # on standard error, which is judged
    finally:
        sys.stderr.flush()
        os._exit(code)


def roket(log: Path, *arguments: str) -> int:
    """``roket`` as a process, with what it says in a file."""
    files = [os.open(os.devnull, os.O_RDWR), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)]

    def work() -> int:
        for number in (0, 1, 2):
            os.dup2(files[number == 2], number)
        return main(arguments)

    try:
        return forked(work)
    finally:
        for file in files:
            os.close(file)


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LIMIT
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen")
        time.sleep(0.002)
    return found


def ended(process: int, patience: float) -> int | None:
    """The exit code of a process, less than 0 for a signal; ``None`` if it goes on."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


class Round:
    """One transfer and its accident."""

    def __init__(self, chance: random.Random, kind: str, accident: str, home: Path) -> None:
        self.chance, self.kind, self.accident, self.home = chance, kind, accident, home
        self.victim = chance.choice(["send", "recv"])
        self.moment = chance.uniform(0.0, 0.35)
        self.place = home / f"{kind}s"  # the rounds of one kind share it
        self.place.mkdir(exist_ok=True)
        self.name = "content" if kind == "tree" else "new"
        self.source = home / ("tree" if kind == "tree" else "file") / "content"

    def run(self) -> Counter[str]:
        logs = {side: self.home / f"{side}.log" for side in ("recv", "send")}
        patience = ["--idle-timeout", "0.6" if self.accident in CHAOS else str(LIMIT)]
        target = [str(self.place / self.name)] if self.kind != "tree" else ["--unpack", str(self.place)]
        before = self.part()
        processes = {"recv": roket(logs["recv"], "recv", "0", *KINDS[self.kind], *patience, *target)}
        codes: dict[str, int | None] = {}
        relay = 0
        try:
            heard = until(lambda: re.search(r"listening on (\S+):(\d+)\n", logs["recv"].read_text()), "recv listening")
            port = int(heard[2])
            if self.accident in CHAOS:
                relay, port = self.relayed(port)
            rate = self.chance.choice([[], *[["--rate", "4M"]] * 4])
            where = f"127.0.0.1:{port}"
            processes["send"] = roket(
                logs["send"], "send", *KINDS[self.kind], *patience, *rate, str(self.source), where
            )
            if self.accident in SIGNALS:
                time.sleep(self.moment)
                os.kill(processes[self.victim], SIGNALS[self.accident])
            codes["send"] = ended(processes["send"], LIMIT)
            codes["recv"] = ended(processes["recv"], 0.2)
            if codes["recv"] is None and is_listening(int(heard[2])):  # the sender had no time to connect: nobody will
                os.kill(processes["recv"], signal.SIGTERM)
            if codes["recv"] is None:
                codes["recv"] = ended(processes["recv"], LIMIT)
        finally:
            for side, process in processes.items():
                if codes.get(side) is None:
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)
            if relay:
                os.kill(relay, signal.SIGKILL)
                os.waitpid(relay, 0)
        try:
            return self.judge(codes, {side: log.read_text() for side, log in logs.items()}, before)
        except AssertionError as error:
            said = {side: log.read_text() for side, log in logs.items()}
            raise AssertionError(f"{self.kind}, {self.accident}, {self.victim}: {error}; {codes} {said}") from None

    def relayed(self, port: int) -> tuple[int, int]:
        """A relay in a process of its own, since it has a thread: returns the process and the port."""
        reader, writer = os.pipe()
        toxic, direction = CHAOS[self.accident](self.chance), self.chance.choice(DIRECTIONS)

        def work() -> int:
            with ChaosRelay(("127.0.0.1", port), seed=1) as relay:
                os.write(writer, b"%d" % relay.port)
                time.sleep(self.moment)
                relay.add(toxic, direction)
                time.sleep(LIMIT)
            return 0

        process = forked(work)
        os.close(writer)
        try:
            return process, int(os.read(reader, 10))
        finally:
            os.close(reader)

    def part(self) -> bytes:
        """What an interrupted transfer has left to go on with."""
        try:
            return (self.place / "new.part").read_bytes()
        except FileNotFoundError:
            return b""

    def judge(self, codes: dict[str, int | None], said: dict[str, str], before: bytes) -> Counter[str]:
        """What must hold afterwards.

        A file under its name is whole; one is there whenever either command says so. What an interruption leaves to go
        on with is a beginning of the file, and never less than before. Nothing else is left, unless the receiver was
        killed. Raw TCP alone cannot tell a sender that was killed from one that is done: there a file may be short.
        """
        content = CONTENT
        names = set(os.listdir(self.place))
        was_killed = self.accident == "kill" and self.victim == "recv"
        scraps = {name for name in names if SUFFIX in name}
        assert not scraps or was_killed, f"left behind: {scraps}"
        assert names - scraps <= ({self.name, "new.part"} if self.kind == "resume" else {self.name}), names
        assert set(codes.values()) <= CODES, codes
        assert not any("Traceback" in text for text in said.values()), said
        if self.accident == "nothing":
            assert codes == {"recv": 0, "send": 0}, "not even undisturbed"
        found = self.content() if self.name in names else None
        can_be_short = self.kind == "raw" and (
            self.accident in ("made-up FIN", "close") or (self.accident == "kill" and self.victim == "send")
        )
        is_short = found is not None and found != content
        if is_short:
            assert found is not None
            assert can_be_short, f"{len(found)} bytes that are not what was sent"
            assert content.startswith(found), "corrupted"
        if codes["recv"] == 0:
            assert found is not None, "the receiver is done, and there is no file"
        if codes["send"] == 0 and (self.kind in ("digest", "resume") or codes["recv"] == 0):
            assert found is not None, "the sender is done, and there is no file"
        part = self.part()
        assert content.startswith(part), "the beginning is corrupted"
        assert found is not None or len(part) >= len(before), f"{len(before)} bytes had arrived, {len(part)} are left"
        for name in {*scraps, *({self.name} & names)}:
            path = self.place / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        results = [
            "transfers",
            f"by {self.accident}",
            "arrived" if found is not None and not is_short else "interrupted",
        ]
        results += ["short, by raw TCP"] if is_short else []
        results += ["resumed"] if found is not None and before else []
        results += ["kept a beginning"] if part else []
        return Counter(results)

    def content(self) -> bytes:
        """Of what has arrived."""
        path = self.place / self.name
        if self.kind != "tree":
            return path.read_bytes()
        assert sorted(os.listdir(path)) == ["a", "b"], os.listdir(path)
        assert (path / "b").read_bytes() == b"b" * 1000
        return (path / "a").read_bytes()


def rounds(count: int, seed: int, home: Path) -> Counter[str]:
    """So many rounds, one after the other, and then one more of each kind, undisturbed, that must complete it."""
    chance = random.Random(seed)
    results: Counter[str] = Counter()
    for _ in range(count):
        results += Round(chance, chance.choice([*KINDS]), chance.choice(ACCIDENTS), home).run()
    for kind in KINDS:
        Round(chance, kind, "nothing", home).run()
    return results


CONTENT: Final = random.Random(0).randbytes(SIZE)


def prepared(home: Path) -> Path:
    """A directory for one worker, with what is sent."""
    home.mkdir()
    for name in ("file", "tree"):
        (home / name).mkdir()
    (home / "file" / "content").write_bytes(CONTENT)
    (home / "tree" / "content").mkdir()
    (home / "tree" / "content" / "a").write_bytes(CONTENT)
    (home / "tree" / "content" / "b").write_bytes(b"b" * 1000)
    return home


def main_(count: int, seed: int) -> int:
    print(f"ROKET_SEED={seed}", file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # as the command does until its event loop takes the signal
    results: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="roket-interruptions-") as place:
        workers = []
        for number in range(WORKERS):
            home = prepared(Path(place, str(number)))
            share = count // WORKERS + (number < count % WORKERS)

            def work(number: int = number, home: Path = home, share: int = share) -> int:
                (home / "results").write_text(json.dumps(rounds(share, seed + number, home)))
                return 0

            workers.append((forked(work), home / "results"))
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process, _ in workers]
        for _, path in workers:
            if path.exists():
                results.update(json.loads(path.read_text()))
    print(json.dumps(dict(sorted(results.items()))))
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main_(int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else random.randrange(1 << 32)))
