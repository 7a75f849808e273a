"""The environment contract: what a program that takes part in the whole suite is asked to do. Pure.

It is started once for each case, with ``ROKET_CASE`` (the case's address), ``ROKET_ROLE`` (``client``: it connects;
``server``: it listens), ``ROKET_HOST`` and ``ROKET_PORT`` (where), and ``ROKET_JOB``, one of the names below. Some
jobs have more variables: ``ROKET_BYTES``, ``ROKET_SECONDS``, ``ROKET_URL`` and ``ROKET_FILE``, and for TLS
``ROKET_TLS_CA`` (for a client: the certificate to trust, of the name ``localhost`` and for 127.0.0.1) or
``ROKET_TLS_CERT`` (for a server: certificate and key in one file). A program that cannot do a job, or not in that
role, exits with status 127. A client makes one connection, but for HTTP, where it makes as many as it needs. A server
serves connections until its standard input ends; where the job is to copy standard input or output, it serves one
only.

"Stays": when the job is done the process stays alive until its standard input ends, and then exits with status 0, so
that what it has left open can be seen. Where it does not stay: status 0 if it has sent and received everything,
anything but 0 and 127 if it knows that it has not.
"""

from __future__ import annotations

from typing import Final

JOBS: Final = {
    "pipe": "Send what comes from standard input, FIN when that ends; write what is received to standard output; close "
    "when both have ended. Does not stay.",
    "idle": "Open (or accept) connections and leave them alone, as your program does with idle ones. Stays.",
    "pool": "GET / over HTTP/1.1 from ROKET_HOST, and keep the connection for the next request. Stays.",
    "send-close": "Once connected read ROKET_BYTES bytes from standard input, send them in one piece, receive nothing, "
    "and close. Stays.",
    "cancel-send": "Send ROKET_BYTES bytes of anything in one piece, cancel that after ROKET_SECONDS (by a timeout, a "
    "cancel scope...), and close as your program does after that. Stays.",
    "cancel-close": "As cancel-send, and the close too is cancelled at once. Stays.",
    "close-in-send": "One task sends ROKET_BYTES bytes of anything in one piece; another closes the connection after "
    "ROKET_SECONDS. Stays.",
    "close-in-receive": "One task receives; another closes the connection after ROKET_SECONDS. Write `closed` to "
    "standard output if the receive failed, `eof` if it reported the end. Stays.",
    "late-read": "Receive nothing for ROKET_SECONDS, then everything, and write it to standard output. Does not stay.",
    "echo": "Send back what comes, up to the peer's FIN, then close. Stays (servers).",
    "early-answer": "Read ROKET_BYTES bytes from standard input. Then, for a connection: receive 1,000 bytes, send the "
    "ROKET_BYTES bytes, receive no more, close. Stays (servers).",
    "forget": "The handler of a connection returns without closing it. Stays (servers).",
    "raise": "The handler of a connection sends ROKET_BYTES bytes of anything, of twice as many that it has "
    "promised, and raises an exception. Stays (servers).",
    "tls-read": "Receive to the peer's end, over TLS, and write it to standard output. Does not stay.",
    "tls-send-close": "As send-close, over TLS 1.3.",
    "http-get": "GET ROKET_URL over HTTP/1.1, and write the body of the answer to standard output. Does not stay.",
    "http-put": "PUT the file ROKET_FILE to ROKET_URL, and write the body of the answer, whatever its status, to "
    "standard output. Does not stay.",
    "http-again": "GET ROKET_URL, and write the body of the answer and a newline to standard output, or `failed` if "
    "there was no whole answer. For each line of standard input do it again, with the same client (its pool). Stays.",
    "http-timeout": "GET ROKET_URL with a time limit of ROKET_SECONDS, and write `failed` and a newline to standard "
    "output when it is over. Stays.",
    "http-cancel": "GET ROKET_URL, cancel it after ROKET_SECONDS (by a timeout, a cancel scope, an abort signal...) in "
    "the middle of the answer, and write `failed` and a newline to standard output. For each line of standard input "
    "do as in http-again. Stays.",
}
"""Each job, described for the author of a program that does it."""
