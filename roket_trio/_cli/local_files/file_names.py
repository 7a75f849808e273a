"""Names that a sender has chosen, for files in a directory of ours."""

from __future__ import annotations

import sys

from ..._files.atomic import SUFFIX
from ..console.exit_codes import CommandError, ExitCode

# The longest names of ext4, XFS, Btrfs and tmpfs (bytes).
_NAME_MAX = 255

PART = ".part"
"""What the name of a file ends with that was not completed."""


def checked_name(name: object) -> str:
    """A file's name that the sender has chosen, if it is one that may be made in a directory of ours.

    :raises CommandError: it leads somewhere else, is hidden, or would not be read as it is
    """
    is_good = (
        isinstance(name, str)
        and name != ""
        and not name.startswith((".", "-"))
        and not name.endswith((SUFFIX, PART))
        and not set(name) & {"/", "\\", "\0"}
        and name.isprintable()
        and len(name.encode("utf-8", "surrogatepass")) <= _NAME_MAX - len(PART)
        and not (sys.platform == "win32" and ":" in name)
    )
    if not is_good:
        raise CommandError(ExitCode.CHECK_FAILED, f"refused the name that the sender gives: {name!a:.80}")
    assert isinstance(name, str)
    return name
