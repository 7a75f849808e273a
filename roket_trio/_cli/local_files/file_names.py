"""Which file names that a sender has chosen are taken."""

from __future__ import annotations

from ..._files.atomic import SUFFIX
from ..console.exit_codes import CommandError, ExitCode

# The longest names of ext4, XFS, Btrfs and tmpfs (bytes).
_NAME_MAX = 255

PART = ".part"
"""The end of the name of a file that is not complete and will be resumed."""


def checked_name(name: object) -> str:
    """The name itself, if a file with it may be made in a directory of the receiver.

    :raises CommandError: it leads to another directory, is hidden, looks like an option or like an incomplete file, or
        does not print as it is
    """
    is_good = (
        isinstance(name, str)
        and name != ""
        and not name.startswith((".", "-"))
        and not name.endswith((SUFFIX, PART))
        and not set(name) & {"/", "\\", "\0"}
        and name.isprintable()
        and len(name.encode("utf-8", "surrogatepass")) <= _NAME_MAX - len(PART)
    )
    if not is_good:
        raise CommandError(ExitCode.CHECK_FAILED, f"refused the name that the sender gives: {name!a:.80}")
    assert isinstance(name, str)
    return name
