"""Sizes, rates and times as people read them."""

from __future__ import annotations

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def short_size(count: float) -> str:
    """``1.4 GiB``: three or four characters and a unit."""
    if count < 1024:
        return f"{count:.0f} B"
    value = float(count)
    unit = "B"
    for unit in _UNITS:
        value /= 1024
        if value < 1000 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def exact_size(count: int) -> str:
    """``1073741824 bytes (1.0 GiB)``."""
    if count == 1:
        return "1 byte"
    return f"{count} bytes ({short_size(count)})" if count >= 1024 else f"{count} bytes"


def duration(seconds: float) -> str:
    """``0.71 s``, ``12.3 s``, ``2:05``, ``1:02:05``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed(count: int, seconds: float) -> str:
    """``1.4 GiB/s``."""
    return f"{short_size(count / max(seconds, 1e-6))}/s"
