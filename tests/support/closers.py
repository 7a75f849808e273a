"""A program that does every job of the close suite, well; and, told by ``MUTANT``, one that does a single thing badly.

Plain blocking sockets and threads, on purpose: it shares nothing with what it is there to check. Each mutant is named
for the one case that must catch it. Started by ``roket_trio.testing.run_case``; see ``roket_trio/testing/_jobs.py``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable

MUTANT = os.environ.get("MUTANT", "")
ROLE = os.environ["ROKET_ROLE"]
ADDRESS = os.environ["ROKET_HOST"], int(os.environ["ROKET_PORT"])
JOB = os.environ["ROKET_JOB"]
BYTES = int(os.environ.get("ROKET_BYTES", "0"))
SECONDS = float(os.environ.get("ROKET_SECONDS", "0"))

LINGER = 5.0
kept: list[socket.socket] = []


def is_mutant(name: str) -> bool:
    return name == MUTANT


def abort(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)  # wakes a thread that waits in recv
    sock.close()


def is_acked(sock: socket.socket) -> bool:
    """Whether the peer's kernel has our FIN: the state is none of those that wait for it."""
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state not in (1, 4, 9, 11)  # ESTABLISHED, FIN_WAIT1, LAST_ACK, CLOSING


def close(sock: socket.socket, *, seconds: float = LINGER, for_peer: bool = False) -> None:
    """FIN; drop what arrives, until the FIN is acknowledged or the peer has finished; let go."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    sock.settimeout(0.01)
    while time.monotonic() < deadline and (for_peer or not is_acked(sock)):
        try:
            if not sock.recv(1 << 16):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        while sock.recv(1 << 16):
            pass
    sock.close()


def connections(handler: Callable[[socket.socket], None], *, once: bool = False) -> None:
    """Make the one connection, or serve those that come, each in a thread."""
    if ROLE == "client":
        handler(socket.create_connection(ADDRESS))
        return
    listener = socket.create_server(ADDRESS, backlog=200)
    if once:
        sock, _ = listener.accept()
        listener.close()
        handler(sock)
        return

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if is_mutant("close/5.5") and error.errno == errno.EMFILE:
                    time.sleep(60)
                time.sleep(0.05)  # out of descriptors: it passes
                continue
            if is_mutant("close/5.1"):
                sock.setblocking(False)
                time.sleep(0.01)
                if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 7:  # CLOSE: gone already
                    os._exit(1)
                sock.setblocking(True)
            threading.Thread(target=guarded, args=(handler, sock), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def guarded(handler: Callable[[socket.socket], None], sock: socket.socket) -> None:
    """A handler's connection ends with it; one that fails is reset."""
    try:
        handler(sock)
    except Exception:
        if is_mutant("close/5.4"):
            abort(sock)
            os._exit(1)
        if is_mutant("close/5.3"):
            close(sock)
        else:
            abort(sock)
    else:
        if is_mutant("close/5.2"):
            kept.append(sock)
        elif sock.fileno() >= 0:
            close(sock)


input_is_taken = threading.Event()


def stay() -> None:
    """Until standard input ends."""
    if JOB in ("send-close", "early-answer", "tls-send-close"):
        input_is_taken.wait()
    while os.read(0, 1 << 16):
        pass
    os._exit(0)


def read_input(count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = os.read(0, count - len(data))
        if not chunk:
            sys.exit("standard input ended early")
        data += chunk
    input_is_taken.set()
    return data


def write_output(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


# --- jobs ------------------------------------------------------------------------------------------------------------


def pipe(sock: socket.socket) -> None:
    failed: list[OSError] = []
    received = 0

    def upload() -> None:
        try:
            while data := os.read(0, 1 << 16):
                sock.sendall(data)
            if not is_mutant("close/1.3"):
                sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            failed.append(error)
        if is_mutant("close/1.4") and not failed:
            time.sleep(0.5)
            if not received and not select.select([sock], [], [], 0)[0]:
                os._exit(0)

    uploading = threading.Thread(target=upload)
    uploading.start()
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLRDHUP)
    try:
        while True:
            poll.poll()
            if is_mutant("close/1.2") and not received:
                time.sleep(0.4)  # so that all is there when it looks
                if poll.poll()[0][1] & select.POLLRDHUP:
                    break
            data = sock.recv(1 << 16)
            if not data:
                break
            received += len(data)
            write_output(data)
    except OSError as error:
        failed.append(error)
    uploading.join()
    close(sock)
    sys.exit(1 if failed and not is_mutant("close/4.2") else 0)


def idle(sock: socket.socket) -> None:
    """Watch for the peer's end while doing nothing."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    while True:
        (_, events) = poll.poll()[0]
        is_reset = bool(events & select.POLLERR)
        if (is_reset and is_mutant("close/4.3")) or (not is_reset and is_mutant("close/1.1")):
            kept.append(sock)
            time.sleep(60)
        break
    close(sock)


def pool(sock: socket.socket) -> None:
    sock.sendall(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % ADDRESS[0].encode())
    answer = b""
    while not answer.endswith(b"ok"):
        answer += sock.recv(1000)
    if is_mutant("close/1.5"):
        kept.append(sock)
        return
    idle(sock)


def send_close(sock: socket.socket) -> None:
    data = read_input(BYTES)
    sock.sendall(data)
    if is_mutant("close/2.1"):
        sock.close()
    elif is_mutant("close/2.2"):
        sock.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + 0.7
        while time.monotonic() < deadline and not is_acked(sock):
            time.sleep(0.01)
        if is_acked(sock):
            close(sock)
        else:
            abort(sock)
    elif is_mutant("close/2.4"):
        close(sock, seconds=1e6, for_peer=True)
    else:
        close(sock)


def send_until(sock: socket.socket, seconds: float) -> None:
    """Send as much as goes in that time."""
    data = memoryview(bytes(BYTES))
    deadline = time.monotonic() + seconds
    sock.settimeout(0.05)
    while data and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            data = data[sock.send(data[: 1 << 20]) :]


def cancel_send(sock: socket.socket) -> None:
    send_until(sock, SECONDS)
    if is_mutant("close/3.1"):
        close(sock)
    else:
        abort(sock)


def cancel_close(sock: socket.socket) -> None:
    send_until(sock, SECONDS)
    if is_mutant("close/3.2"):
        kept.append(sock)
    else:
        abort(sock)


def close_in_send(sock: socket.socket) -> None:
    def send() -> None:
        with contextlib.suppress(OSError):
            sock.settimeout(None if is_mutant("close/3.3") else SECONDS)
            sock.sendall(bytes(BYTES))

    sending = threading.Thread(target=send)
    sending.start()
    sending.join()
    if is_mutant("close/3.3"):
        close(sock)
    else:
        abort(sock)


def close_in_receive(sock: socket.socket) -> None:
    closed = threading.Event()

    def receive() -> None:
        with contextlib.suppress(OSError):
            sock.recv(1)
        said = "eof" if is_mutant("close/3.4") or not closed.is_set() else "closed"
        write_output(f"{said}\n".encode())

    receiving = threading.Thread(target=receive)
    receiving.start()
    time.sleep(SECONDS)
    closed.set()
    sock.shutdown(socket.SHUT_RDWR)
    receiving.join()
    close(sock)


def late_read(sock: socket.socket) -> None:
    time.sleep(SECONDS)
    try:
        if is_mutant("close/4.1-loses"):
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "reset")
        while data := sock.recv(1 << 16):
            write_output(data)
    except OSError:
        sys.exit(0 if is_mutant("close/4.1-lies") else 1)
    close(sock)


def tls(sock: socket.socket) -> tuple[ssl.SSLObject, Callable[[], bool]]:
    """A session, its handshake done, and what carries its bytes in: whether there were any."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    if ROLE == "client":
        context = ssl.create_default_context(cafile=os.environ["ROKET_TLS_CA"])
    else:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(os.environ["ROKET_TLS_CERT"])
    session = context.wrap_bio(
        incoming, outgoing, server_side=ROLE == "server", server_hostname="localhost" if ROLE == "client" else None
    )

    def pull() -> bool:
        data = sock.recv(1 << 16)
        incoming.write(data)
        return bool(data)

    while True:
        try:
            session.do_handshake()
            break
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            if not pull():
                sys.exit(1)
    sock.sendall(outgoing.read())
    session.flush = lambda: sock.sendall(outgoing.read())  # type: ignore[attr-defined]
    return session, pull


def tls_read(sock: socket.socket) -> None:
    session, pull = tls(sock)
    while True:
        try:
            data = session.read(1 << 16)
        except ssl.SSLWantReadError:
            if not pull():
                sys.exit(0 if is_mutant("close/6.2") else 1)
            continue
        except ssl.SSLZeroReturnError:
            data = b""
        if not data:
            break
        write_output(data)
    close(sock)


def tls_send_close(sock: socket.socket) -> None:
    session, pull = tls(sock)
    session.write(read_input(BYTES))
    try:
        session.unwrap()
    except ssl.SSLWantReadError:
        pass
    session.flush()  # type: ignore[attr-defined]
    if is_mutant("close/6.1"):
        while pull():
            pass
    if is_mutant("close/6.3"):
        sock.close()
    else:
        close(sock)


def early_answer(sock: socket.socket, answer: list[bytes] = []) -> None:  # noqa: B006
    if not answer:
        answer.append(read_input(BYTES))
    received = 0
    while received < 1000:
        received += len(sock.recv(1000 - received))
    sock.sendall(answer[0])
    if is_mutant("close/2.3"):
        sock.close()
    else:
        close(sock, for_peer=True)


def echo(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLRDHUP)
    while True:
        poll.poll()
        if is_mutant("close/5.6"):
            time.sleep(0.4)
            if poll.poll()[0][1] & select.POLLRDHUP:
                break
        data = sock.recv(1 << 16)
        if not data:
            break
        sock.sendall(data)


def forget(sock: socket.socket) -> None:
    pass


def fail(sock: socket.socket) -> None:
    sock.sendall(bytes(BYTES))
    time.sleep(0.1)
    raise RuntimeError("a handler that fails")


STAYS = {
    "idle": idle,
    "pool": pool,
    "send-close": send_close,
    "cancel-send": cancel_send,
    "cancel-close": cancel_close,
    "close-in-send": close_in_send,
    "close-in-receive": close_in_receive,
    "early-answer": early_answer,
    "echo": echo,
    "forget": forget,
    "raise": fail,
    "tls-send-close": tls_send_close,
}
ENDS = {"pipe": pipe, "late-read": late_read, "tls-read": tls_read}

if JOB in ENDS:
    connections(ENDS[JOB], once=True)
elif JOB in STAYS:
    connections(STAYS[JOB])
    stay()
else:
    sys.exit(127)
