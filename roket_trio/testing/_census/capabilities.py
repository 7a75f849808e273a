"""What can observe sockets on this system, in words."""

from __future__ import annotations

from ..._kernel import procfs
from ..._kernel.sock_diag import SockDiag
from ..._kernel.socket_filter import may_drop


def observers_here() -> str:
    """One line that says what observes this process's sockets, and what is missing for lack of a privilege."""
    if not procfs.AVAILABLE:
        return "sockets are not observed here: there is no /proc"
    try:
        SockDiag().close()
    except OSError as refusal:
        line = f"sockets observed by /proc and TCP_INFO, without sock_diag ({refusal}): no ages, no UNIX sockets' peers"
    else:
        line = "sockets observed by sock_diag, /proc and TCP_INFO"
    return line + ("" if may_drop() else "; without CAP_NET_ADMIN (root) no peers that vanish or lose FINs")
