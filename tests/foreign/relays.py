"""Relays of other people, for the relay suite, each as its documentation has it; and ``roket relay`` on each loop.

    python tests/foreign/relays.py [NAME...]         # puts them to the suite, all if none is named
    python tests/foreign/relays.py nginx PORT TARGET_HOST TARGET_PORT    # becomes nginx, with such a configuration

The configuration of a server is a file in memory, which ends with its process: nothing is left on the disk, whatever
ends it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from roket_trio.testing import CaseResult

ENDS = "{port} {target_host} {target_port}"
CONFIGURED = "python -I tests/foreign/relays.py"
# name: command. A program that is configured by a file is started by this very module.
RELAYS: Final = {
    "roket relay": "python -W ignore -m roket_trio relay -q {port} {target_host}:{target_port}",
    "roket_trio (Trio)": f"python -W ignore tests/foreign/roket_relay.py trio {ENDS}",
    "roket_trio (asyncio)": f"python -W ignore tests/foreign/roket_relay.py asyncio {ENDS}",
    "roket_trio (uvloop)": f"python -W ignore tests/foreign/roket_relay.py uvloop {ENDS}",
    "socat": "socat TCP-LISTEN:{port},fork,reuseaddr,backlog=1024 TCP:{target_host}:{target_port}",
    "socat -t 30": "socat -t 30 TCP-LISTEN:{port},fork,reuseaddr,backlog=1024 TCP:{target_host}:{target_port}",
    "ncat": "ncat --listen --keep-open {host} {port} --sh-exec 'exec ncat {target_host} {target_port}'",
    "HAProxy": f"{CONFIGURED} haproxy {ENDS}",
    "nginx (stream)": f"{CONFIGURED} nginx {ENDS}",
}

HAPROXY: Final = """\
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen relay
    bind 127.0.0.1:{port}
    server target {target_host}:{target_port}
"""
NGINX: Final = """\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
pid {scratch};
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile {open_files};
events {{ worker_connections {connections}; }}
stream {{
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        proxy_pass {target_host}:{target_port};
        proxy_half_close on;
    }}
}}
"""


def file_in_memory(text: str) -> str:
    """The path of a file with that content, for this process and for what it becomes."""
    fd = os.memfd_create("configuration", 0)
    os.write(fd, text.encode())
    return f"/proc/{os.getpid()}/fd/{fd}"


def become(name: str, port: str, target_host: str, target_port: str) -> NoReturn:
    ends = {"port": port, "target_host": target_host, "target_port": target_port}
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if name == "haproxy":
        command = ["haproxy", "-db", "-f", file_in_memory(HAPROXY.format_map(ends))]
    else:
        limit = int(os.environ.get("ROKET_OPEN_FILES", "4096"))
        # nginx writes its process id to a file, and removes that at its end.
        more = {"scratch": file_in_memory(""), "connections": limit, "open_files": limit}
        command = ["nginx", "-e", "stderr", "-c", file_in_memory(NGINX.format_map(ends | more))]
    os.execvpe(command[0], command, os.environ | {"PATH": path})


def put_to_the_suite(name: str, command: str) -> list[CaseResult]:
    """Every case."""
    from roket_trio.testing import Target, run_cases  # not needed by a process that becomes another program
    from roket_trio.testing._relay_suite.cases import RELAY_CASES
    from roket_trio.testing._relay_suite.run import RelayRun

    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    target = Target.from_command(shlex.join(words), "relay", name=name, start_seconds=60)
    return list(
        run_cases(
            RELAY_CASES,
            target,
            at_once=8,
            repro=lambda case: f"roket check --relay {shlex.quote(command)} --case {case.address}",
            kind=RelayRun,
        )
    )


def main() -> None:
    if len(sys.argv) == 5:
        become(*sys.argv[1:])
    for name, command in RELAYS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        program = shlex.split(command)[-4 if command.startswith(CONFIGURED) else 0]
        if program != "python" and shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            print(f"{name}: {program} is not installed")
            continue
        results = put_to_the_suite(name, command)
        failed = [result for result in results if result.verdict == "fail"]
        unseen = [result for result in results if result.verdict == "not-observed"]
        print(f"{name}: {len(results)} cases, {len(failed)} failed, {len(unseen)} not observed", flush=True)
        for result in failed + unseen:
            print(f"    {result.case} {result.level} {result.data}, {result.close}: {result.reason}", flush=True)


if __name__ == "__main__":
    main()
