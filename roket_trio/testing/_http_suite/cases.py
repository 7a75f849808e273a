"""``HTTP_CASES``: all cases of the HTTP suite, in the order of their addresses."""

from __future__ import annotations

from typing import Final

from .._close_suite.case import Case
from .client_cases import CLIENT_CASES
from .server_cases import SERVER_CASES

HTTP_CASES: Final[tuple[Case, ...]] = (*SERVER_CASES, *CLIENT_CASES)
