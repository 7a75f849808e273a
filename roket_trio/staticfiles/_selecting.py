"""The part of a file that a request is answered with: preconditions and ranges (RFC 9110, sections 13 and 14). Pure."""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate
from functools import lru_cache
from time import gmtime
from typing import final

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# More digits than the largest size has, and more characters than the longest date has, are refused unread.
_MOST_DIGITS = 19
_LONGEST_DATE = 64

# Each character is looked at once: nothing that may follow a repetition could be a part of it.
_ETAGS = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


@final
@dataclass(frozen=True, slots=True)
class Version:
    """The size and time of a file: what an HTTP validator is made from."""

    size: int
    modified_ns: int

    @property
    def etag(self) -> bytes:
        """A strong entity tag, made of the time of the last change in nanoseconds and the size."""
        return b'"%x-%x"' % (self.modified_ns, self.size)

    @property
    def modified(self) -> int:
        """The time of the last change in whole seconds, which is the resolution of HTTP dates."""
        return self.modified_ns // 1_000_000_000


@final
@dataclass(frozen=True, slots=True)
class Selection:
    """The status, and which bytes of the file are sent."""

    status: int
    """200, 206, 304, 412 or 416."""
    offset: int = 0
    count: int = 0


def select(method: bytes, headers: Mapping[bytes, bytes], version: Version) -> Selection:
    """Evaluate the preconditions in the order of RFC 9110, section 13.2.2, then the range.

    :param headers: by lower-case name; of fields that came several times, joined by commas
    """
    if (status := _precondition(headers, version)) is not None:
        return Selection(status)
    whole = Selection(200, 0, version.size)
    asked = headers.get(b"range")
    if asked is None or method != b"GET" or not _range_is_for(headers.get(b"if-range"), version):
        return whole
    unit, _, ranges = asked.partition(b"=")
    first, dash, last = ranges.partition(b"-")
    first, last = first.strip(), last.strip()
    # Several ranges, and what is no range at all, may be ignored (section 14.2).
    if unit.strip().lower() != b"bytes" or not dash or not (first or last) or not (_is_size(first) and _is_size(last)):
        return whole
    return _satisfy(first, last, version.size) or whole


def _is_size(text: bytes) -> bool:
    """Whether it is a number of bytes, or nothing."""
    return len(text) <= _MOST_DIGITS and (text.isdigit() or not text)


def _precondition(headers: Mapping[bytes, bytes], version: Version) -> int | None:
    if (wanted := headers.get(b"if-match")) is not None:
        if not _names(wanted, version, weakly=False):
            return 412
    elif (since := parse_date(headers.get(b"if-unmodified-since"))) is not None and version.modified > since:
        return 412
    if (known := headers.get(b"if-none-match")) is not None:
        return 304 if _names(known, version, weakly=True) else None
    if (since := parse_date(headers.get(b"if-modified-since"))) is not None and version.modified <= since:
        return 304
    return None


def _names(etags: bytes, version: Version, *, weakly: bool) -> bool:
    """Whether a list of entity tags contains the tag of this version."""
    if etags.strip() == b"*":
        return True
    tags: list[bytes] = _ETAGS.findall(etags)
    return any((tag.removeprefix(b"W/") if weakly else tag) == version.etag for tag in tags)


def _range_is_for(condition: bytes | None, version: Version) -> bool:
    """Whether ``If-Range`` names exactly this version. Otherwise the whole file is sent. A date must be equal."""
    if condition is None:
        return True
    if condition.startswith((b'"', b"W/")):
        return condition == version.etag
    return parse_date(condition) == version.modified


def _satisfy(first: bytes, last: bytes, size: int) -> Selection | None:
    """Select the range; ``None`` if it is not valid."""
    if not first:  # the last bytes, as many as ``last`` says
        count = min(int(last), size)
        return Selection(206, size - count, count) if count else Selection(416)
    start = int(first)
    end = min(int(last), size - 1) if last else size - 1
    if last and int(last) < start:
        return None
    return Selection(206, start, end + 1 - start) if start < size else Selection(416)


@lru_cache(maxsize=256)
def format_date(seconds: int) -> bytes:
    """Write a date as ``Sun, 06 Nov 1994 08:49:37 GMT`` (section 5.6.7)."""
    year, month, day, hour, minute, second, weekday = gmtime(seconds)[:7]
    text = f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year:04} {hour:02}:{minute:02}:{second:02} GMT"
    return text.encode()


def parse_date(text: bytes | None) -> int | None:
    """Read a date in any of HTTP's formats: the seconds since 1970, or ``None`` if it is no date."""
    if text is None or len(text) > _LONGEST_DATE:
        return None
    parts = parsedate(text.decode("latin-1"))
    if parts is None:
        return None
    try:
        return timegm(parts)
    except (ValueError, OverflowError):
        return None
