"""Public names say the package that hands them out, whatever module has their code."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def public(value: T) -> T:
    """Decorate a class or function that a public package hands out: its ``__module__`` becomes that package.

    Tracebacks, ``repr``, ``help`` and pickles then say ``roket_trio.SocketStream`` whatever module has the code.
    Annotations of a class are strings that only its own module can resolve, so they are resolved here, for
    ``typing.get_type_hints`` and for what builds on it (pydantic, cattrs).
    """
    thing: Any = value
    if isinstance(thing, type) and (names := inspect.get_annotations(thing)):
        hints = get_type_hints(thing, include_extras=True)
        thing.__annotations__ = {name: hints[name] for name in names}
        fields = getattr(thing, "__dataclass_fields__", {})
        for name in fields.keys() & names.keys():
            fields[name].type = hints[name]
    thing.__module__ = thing.__module__.partition("._")[0]
    return value
