"""Where in the user's code something was opened: the one place that tells our own frames from the user's."""

from __future__ import annotations

import os
import sys

_PACKAGE = os.path.dirname(__file__) + os.sep


def opened_at() -> str:
    """Where in the user's code a stream is being opened: the innermost frame that is not of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
