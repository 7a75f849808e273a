"""``roket send`` and ``roket recv`` together: Ctrl-C, directories, UNIX sockets, TLS, and other people's programs."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import trustme
from support.programs import LIMIT, free_port, is_listening, tool
from support.roket_command import (
    CONTENT,
    announced,
    ended,
    next_line,
    only,
    peer_of,
    received_all,
    received_from,
    receiving,
    roket,
    running,
)
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, acknowledgements and RST as Linux has them")

Capture = pytest.CaptureFixture[str]


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_while_receiving_leaves_no_file_no_socket_and_no_traceback(
    number: signal.Signals, code: int, place: Path
) -> None:
    with receiving(place / "file") as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            sender.sendall(CONTENT)
            wait_until(
                lambda: sum(path.stat().st_size for path in place.iterdir()) == len(CONTENT), "all in the new file"
            )
            program.send_signal(number)
            with pytest.raises(ConnectionResetError):
                received_all(sender)
        done = ended(program)
    assert done == (code, "", f"roket recv: interrupted by {number.name} after {len(CONTENT)} bytes\n")
    assert only(place) == []


def test_ctrl_c_while_listening(place: Path) -> None:
    path = place / "socket"
    with running("recv", f"unix:{path}", place / "file") as program:
        assert next_line(program) == f"listening on unix:{path}\n"
        assert stat.S_ISSOCK(path.stat().st_mode)
        program.send_signal(signal.SIGINT)
        done = ended(program)
    assert done == (130, "", "roket recv: interrupted by SIGINT\n")
    assert only(place) == []


def test_ctrl_c_while_sending_resets_so_that_the_peer_cannot_take_it_for_a_whole_file(large: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        with running("send", large, "{}:{}".format(*listener.getsockname())) as program:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(LIMIT)
                assert peer.recv(1)
                program.send_signal(signal.SIGINT)
                done = ended(program)
                with pytest.raises(ConnectionResetError):
                    received_all(peer)
    assert done.code == 130
    assert re.fullmatch(r"roket send: interrupted by SIGINT after \d+ bytes\n", done.errors)


def test_ctrl_c_while_a_peer_does_not_answer(source: Path) -> None:
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]

        def connecting() -> int:
            return len(re.findall(rf" 0100007F:{port:04X} 02 ", Path("/proc/net/tcp").read_text()))

        before = connecting()
        with running("send", "--connect-timeout", str(LIMIT), source, f"127.0.0.1:{port}") as program:
            wait_until(lambda: connecting() > before, "SYN_SENT")
            program.send_signal(signal.SIGINT)
            done = ended(program)
    assert done == (130, "", "roket send: interrupted by SIGINT\n")


# --- directories ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "file").write_bytes(CONTENT)
    (top / "sub" / "deep" / "empty").touch()
    (top / "sub" / "run").write_text("#!/bin/sh\n")
    (top / "sub" / "run").chmod(0o755)
    (top / "link").symlink_to("sub/run")
    return top


def listed(top: Path) -> dict[str, object]:
    """Everything in it: what it is, and what is in it."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = (path.stat().st_mode, path.read_bytes()) if path.is_file() else "directory"
    return found


def test_a_directory_goes_as_tar_and_comes_out_as_it_was(capsys: Capture, tree: Path, place: Path) -> None:
    with receiving("--unpack", place / "new") as (program, port):
        assert roket(capsys, "send", tree, f"127.0.0.1:{port}").code == 0
        done = ended(program)
    assert done.code == 0, done.errors
    assert done.last.endswith(f": {place}/new/tree is on the disk")
    assert only(place / "new") == ["tree"]
    assert listed(place / "new" / "tree") == listed(tree)


def test_tar_is_the_other_end_of_a_directory(capsys: Capture, tree: Path, place: Path) -> None:
    def unpack(sock: socket.socket) -> None:
        sock.settimeout(None)
        subprocess.run([tool("tar"), "-x", "-C", place], stdin=sock.fileno(), check=True, timeout=LIMIT)

    with peer_of(unpack) as where:
        assert roket(capsys, "send", tree, where).code == 0
    assert listed(place / "tree") == listed(tree)
    with receiving("--unpack", place / "again") as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            command: list[str | Path] = [tool("tar"), "-c", "-C", tree.parent, tree.name]
            subprocess.run(command, stdout=sender.fileno(), check=True, timeout=LIMIT)
        assert ended(program).code == 0
    assert listed(place / "again" / "tree") == listed(tree)


def test_a_directory_is_replaced_only_by_force_and_as_a_whole(capsys: Capture, tree: Path, place: Path) -> None:
    (place / "tree").mkdir()
    (place / "tree" / "old").touch()
    (place / "other").touch()
    for force, code, names in ((False, 5, ["old"]), (True, 0, only(tree))):
        with receiving("--unpack", place, *(["--force"] if force else [])) as (program, port):
            sent = roket(capsys, "send", tree, f"127.0.0.1:{port}")
            done = ended(program)
        assert done.code == code, done.errors
        assert sent.code == 0 or (code and sent.code == 3)  # it may hear the reset, or have ended before
        assert only(place / "tree") == names
        assert only(place) == ["other", "tree"]


def archive_of(*members: tarfile.TarInfo) -> bytes:

    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for member in members:
                archive.addfile(member, io.BytesIO(bytes(member.size)))
        return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def unpacked(capsys: Capture, archive: bytes, target: Path) -> tuple[int, str]:
    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            sender.sendall(archive)
            sender.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                received_all(sender)

    done = received_from(capsys, send, "--unpack", target)
    return done.code, done.last


@pytest.mark.parametrize(
    "archive",
    [
        archive_of(member("../out")),
        archive_of(member("a", tarfile.SYMTYPE, "/etc"), member("a/passwd")),
        archive_of(member("a", tarfile.SYMTYPE, "../../secret")),
        archive_of(member("a", tarfile.LNKTYPE, "../secret")),
        archive_of(member("a", tarfile.CHRTYPE)),
        archive_of(member(".bashrc")),
        archive_of(member("b", tarfile.DIRTYPE), member("a", tarfile.SYMTYPE, "b"), member("a/x")),
        archive_of(member("b"), member("a", tarfile.SYMTYPE, "b"), member("a", size=10)),
        archive_of(member("d/e/l", tarfile.SYMTYPE, "../../x"), member("h", tarfile.LNKTYPE, "d/e/l")),
        archive_of(member("a", tarfile.LNKTYPE, "nothing")),
        archive_of(member("a\0b" + "c" * 100)),
        archive_of(member("a"), member("a/b")),
    ],
    ids=[
        "dot-dot",
        "through a link",
        "a link out",
        "a hard link out",
        "a device",
        "a hidden name",
        "through a link of its own",
        "into a link of its own",
        "a link that is moved to where it leads out",
        "a hard link to nothing",
        "a NUL",
        "below a file",
    ],
)
def test_an_archive_that_leads_out_is_refused_and_leaves_nothing(capsys: Capture, archive: bytes, place: Path) -> None:
    (place / "secret").write_text("secret")
    (place / "in").mkdir()
    code, line = unpacked(capsys, archive, place / "in")
    assert code == 1, line
    assert line.startswith("roket recv: refused ")
    assert only(place / "in") == []
    assert only(place) == ["in", "secret"]


@pytest.mark.parametrize(
    "length", [512 * 3, 512 * 4, 700, 0], ids=["at a header", "between two", "in a member", "at 0"]
)
def test_an_archive_that_was_cut_is_never_taken_for_whole(capsys: Capture, length: int, place: Path) -> None:
    archive = archive_of(member("a", size=1000), member("b", size=1000))
    assert unpacked(capsys, archive, place / "whole")[0] == 0
    code, line = unpacked(capsys, archive[:length], place / "new")
    assert code == 3, line
    assert line.startswith("roket recv: what arrived is no complete tar archive: ")
    assert only(place) == ["whole"]


def test_an_archive_with_a_wrong_header_is_never_taken_for_whole(capsys: Capture, place: Path) -> None:
    archive = bytearray(archive_of(member("a", size=1000), member("b", size=1000)))
    archive[3 * 512] ^= 1
    code, line = unpacked(capsys, bytes(archive), place / "new")
    assert code == 3, line
    assert line.startswith("roket recv: what arrived is no complete tar archive: ")
    assert only(place) == []


def test_a_header_of_an_archive_that_would_fill_the_memory_is_not_read(capsys: Capture, place: Path) -> None:
    header = member("x", tarfile.XHDTYPE, size=1 << 30).tobuf(tarfile.USTAR_FORMAT)
    code, line = unpacked(capsys, header + bytes(5000), place / "new")
    assert code == 3, line
    assert line == "roket recv: what arrived is no complete tar archive: it has a header of 1073741824 bytes"
    assert only(place) == []


def test_a_directory_that_cannot_be_read_ends_in_a_reset(
    capsys: Capture, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: tarfile.TarFile, name: str, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(tree / "locked"))

    monkeypatch.setattr(tarfile.TarFile, "add", refuse)

    def talk(sock: socket.socket) -> None:
        with pytest.raises(ConnectionResetError):
            received_all(sock)

    with peer_of(talk) as where:
        done = roket(capsys, "send", tree, where)
    assert done.code == 5
    assert done.errors.startswith(f"roket send: reading {tree}/locked failed: Permission denied")


# --- UNIX sockets and TLS ---------------------------------------------------------------------------------------------


def test_over_a_unix_socket(capsys: Capture, source: Path, place: Path) -> None:
    path = place / "socket"
    with running("recv", f"unix:{path}", place / "file") as program:
        assert next_line(program) == f"listening on unix:{path}\n"
        done = roket(capsys, "send", source, f"unix:{path}")
        assert done.errors.endswith(": delivered\n")
        assert ended(program).code == 0
    assert only(place) == ["file"]
    assert (place / "file").read_bytes() == CONTENT


def test_a_unix_socket_in_use_is_not_replaced_and_one_left_behind_is(capsys: Capture, place: Path) -> None:
    path = place / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        done = roket(capsys, "recv", f"unix:{path}", place / "file")
        assert done == (6, "", f"roket recv: cannot listen on unix:{path}: Address already in use\n")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))  # it is still its own
    with running("recv", f"unix:{path}", place / "file") as program:
        assert next_line(program) == f"listening on unix:{path}\n"
        program.send_signal(signal.SIGINT)
        assert ended(program).code == 130
    assert only(place) == []


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A directory: ca.pem, server.pem and client.pem with their keys, strange.pem of somebody else."""
    place = tmp_path / "certificates"
    place.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    for name, issuer in (("server", authority), ("client", authority), ("strange", trustme.CA())):
        issuer.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
            str(place / f"{name}.pem")
        )
    return place


@pytest.mark.parametrize("name", [[], ["--tls-name", "LOCALHOST."]], ids=["address", "absolute name"])
def test_over_tls_with_certificates_on_both_sides(
    capsys: Capture, source: Path, place: Path, certificates: Path, name: list[str]
) -> None:
    server: list[str | Path] = ["--cert", certificates / "server.pem", "--cafile", certificates / "ca.pem"]
    with receiving(*server, place / "file") as (program, port):
        client: list[str | Path] = ["--cafile", certificates / "ca.pem", "--cert", certificates / "client.pem"]
        done = roket(capsys, "send", *client, *name, source, f"127.0.0.1:{port}")
        assert ended(program).code == 0
    assert done.code == 0, done.errors
    assert done.errors.endswith(", by read-send: acknowledged\n")
    assert (place / "file").read_bytes() == CONTENT


def test_a_certificate_that_is_not_trusted_is_6_on_both_sides(
    capsys: Capture, source: Path, place: Path, certificates: Path
) -> None:
    with receiving("--cert", certificates / "strange.pem", place / "file") as (program, port):
        done = roket(capsys, "send", "--cafile", certificates / "ca.pem", source, f"127.0.0.1:{port}")
        assert ended(program).code == 6
    assert done.code == 6
    assert done.errors.startswith(f"roket send: TLS with 127.0.0.1:{port} failed: the certificate is not accepted: ")
    assert only(place) == []


def test_a_peer_without_tls_and_files_that_are_no_certificates(
    capsys: Capture, source: Path, certificates: Path
) -> None:
    with peer_of(lambda sock: sock.sendall(b"220 hello\r\n" * 10)) as where:
        done = roket(capsys, "send", "--tls", source, where)
    assert done.code == 6
    assert done.errors.startswith(f"roket send: TLS with {where} failed: ")
    done = roket(capsys, "send", "--cafile", source, source, "127.0.0.1:1")
    assert done.code == 5
    assert done.errors.startswith(f"roket send: {source} is no usable PEM file: ")
    done = roket(capsys, "send", "--cafile", certificates / "missing", source, "127.0.0.1:1")
    assert done == (5, "", f"roket send: reading {certificates}/missing failed: No such file or directory\n")


def test_a_certificate_without_its_key_is_told(capsys: Capture, place: Path, certificates: Path) -> None:
    ca, server = certificates / "ca.pem", certificates / "server.pem"
    lacks = f"roket recv: {ca} is no PEM file of a certificate with"
    done = roket(capsys, "recv", "--cert", ca, "0", place / "file")
    assert done == (5, "", f"{lacks} its key; --key names the file of a separate key\n")
    done = roket(capsys, "recv", "--cert", ca, "--key", server, "0", place / "file")
    assert done == (5, "", f"{lacks} the key in {server}\n")
    done = roket(capsys, "recv", "--cert", server, "--key", place / "none", "0", place / "file")
    assert done == (5, "", f"roket recv: reading {place}/none failed: No such file or directory\n")
    assert only(place) == []


def test_a_tls_stream_that_is_cut_is_not_complete(place: Path, certificates: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with receiving("--cert", certificates / "server.pem", place / "file") as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sock:
            wrapped = context.wrap_socket(sock, server_hostname="localhost")
            wrapped.sendall(CONTENT)
            os.close(wrapped.detach())  # FIN, and no close_notify
        done = ended(program)
    assert done.code == 3
    assert only(place) == []


# --- with other people's programs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nc", "socat", "ncat"])
def test_others_receive_what_is_sent(name: str, capsys: Capture, source: Path, place: Path) -> None:
    port = free_port()
    commands = {
        "nc": ["-l", "127.0.0.1", str(port)],
        "socat": ["-u", f"TCP-LISTEN:{port},bind=127.0.0.1", "STDOUT"],
        "ncat": ["-l", "127.0.0.1", str(port)],
    }
    with (place / "file").open("wb") as file:
        with subprocess.Popen([tool(name), *commands[name]], stdin=subprocess.DEVNULL, stdout=file) as receiver:
            try:
                wait_until(lambda: is_listening(port), f"{name} listens")
                done = roket(capsys, "send", source, f"127.0.0.1:{port}")
                assert receiver.wait(LIMIT) == 0
            finally:
                receiver.kill()
    assert done.code == 0, done.errors
    assert (place / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["nc", "socat", "ncat"])
def test_what_others_send_is_received(name: str, source: Path, place: Path) -> None:
    with receiving(place / "file") as (program, port):
        commands = {
            "nc": ["-N", "127.0.0.1", str(port)],
            "socat": ["-u", "STDIN", f"TCP:127.0.0.1:{port}"],
            "ncat": ["--send-only", "127.0.0.1", str(port)],
        }
        with source.open("rb") as file:
            subprocess.run([tool(name), *commands[name]], stdin=file, check=True, timeout=LIMIT)
        done = ended(program)
    assert done.code == 0, done.errors
    assert (place / "file").read_bytes() == CONTENT


def test_openssl_is_the_other_end_of_tls(capsys: Capture, source: Path, place: Path, certificates: Path) -> None:
    port = free_port()
    server = [tool("openssl"), "s_server", "-quiet", "-accept", f"127.0.0.1:{port}", "-naccept", "1", "-rev"]
    server = [*server[:-1], "-cert", str(certificates / "server.pem"), "-key", str(certificates / "server.pem")]
    with (place / "file").open("wb") as file:
        with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.DEVNULL) as receiver:
            try:
                wait_until(lambda: is_listening(port), "openssl listens")
                done = roket(capsys, "send", "--cafile", certificates / "ca.pem", source, f"127.0.0.1:{port}")
                # openssl leaves as soon as its standard input ends, also while it still has something to write.
                wait_until(lambda: (place / "file").stat().st_size == len(CONTENT), "openssl has written everything")
                assert receiver.stdin is not None
                receiver.stdin.close()
                receiver.wait(LIMIT)
            finally:
                receiver.kill()
    assert done.code == 0, done.errors
    assert (place / "file").read_bytes() == CONTENT


def test_a_port_that_others_wait_for_is_announced_before_it_accepts(place: Path) -> None:
    with running("recv", "*:0", place / "file") as program:
        port = announced(program)
        assert is_listening(port) or f":{port:04X} " in Path("/proc/net/tcp6").read_text()
        program.send_signal(signal.SIGINT)
        assert ended(program).code == 130
