"""File names between machines: how they are sent, and which of a sender's are taken."""

from __future__ import annotations

import os

from ..._files.atomic import SUFFIX
from ..console.characters import CONTROLS, SURROGATES
from ..console.exit_codes import CommandError, ExitCode

# The longest names of ext4, XFS, Btrfs and tmpfs (bytes).
_NAME_MAX = 255

PART = ".part"
"""The end of the name of a file that is not complete and will be resumed."""


def wire_name(name: str) -> str:
    """A name or path of this machine, as it is sent: UTF-8, whatever the locale; other bytes as Python's surrogates."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def checked_name(name: object) -> str:
    """The name for this machine's system calls, if a file with it may be made in a directory of the receiver.

    :raises CommandError: it leads to another directory, is hidden, looks like an option or like an incomplete file, is
        no UTF-8, or has a character that controls a terminal or turns the order of the text
    """
    is_good = (
        isinstance(name, str)
        and name != ""
        and not name.startswith((".", "-"))
        and not name.endswith((SUFFIX, PART))
        and not set(name) & {"/", "\\"}
        and not CONTROLS.search(name)
        and not SURROGATES.search(name)
        and len(name.encode()) <= _NAME_MAX - len(PART)
    )
    if not is_good:
        raise CommandError(ExitCode.CHECK_FAILED, f"refused the name that the sender gives: {name!a:.80}")
    assert isinstance(name, str)
    return os.fsdecode(name.encode())  # in an ASCII locale too the file gets its name in UTF-8
