"""A ladder diagram as SVG, from lines of text. Pure: no Sphinx; :mod:`ladder` has the directive and its syntax."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from typing import Final

_BETWEEN: Final = 250  # between the two lines of life, in pixels
_BESIDE: Final = 60  # beside them at the least
_TOP: Final = 40
_STEP: Final = 28
_LETTER: Final = 7.4  # how wide a letter of the 13 px font is, on average, in a wide font
_MOST: Final = 34  # letters of a note

_ARROW: Final = re.compile(r"(?P<end>\w+) -(?P<head>[>x]) (?P<other>\w+): (?P<text>.+)")
_NOTE: Final = re.compile(r"(?P<end>\w+): (?P<text>.+)")


@dataclass(frozen=True)
class Step:
    """One line of a ladder."""

    kind: str
    """``data``, ``fin``, ``rst`` or ``ack``: an arrow; ``note``, ``state``, ``gap``."""
    from_left: bool
    text: str
    is_lost: bool = False


def parse(lines: list[str], left: str, right: str) -> list[Step]:
    """The steps.

    :raises ValueError: a line is none; the message has it
    """
    steps = []
    for line in lines:
        if not line.strip():
            continue
        if line.startswith("..."):
            steps.append(Step("gap", True, line[3:].strip()))
        elif (found := _ARROW.fullmatch(line)) and {found["end"], found["other"]} == {left, right}:
            kind = found["text"].split()[0].rstrip(",").lower()
            kind = kind if kind in ("fin", "rst", "ack") else "data"
            steps.append(Step(kind, found["end"] == left, found["text"], found["head"] == "x"))
        elif (found := _NOTE.fullmatch(line)) and found["end"] in (left, right):
            text = found["text"]
            kind = "state" if text.startswith("[") and text.endswith("]") else "note"
            text = text.strip("[]") if kind == "state" else text
            if len(text) > _MOST:
                raise ValueError(f"a note may have {_MOST} letters: {line!r}")
            steps.append(Step(kind, found["end"] == left, text))
        else:
            raise ValueError(f"not a step between {left!r} and {right!r}: {line!r}")
    if not steps:
        raise ValueError("a ladder needs steps")
    return steps


def in_words(steps: list[Step], left: str, right: str) -> list[str]:
    """The steps as sentences, for readers who do not see the picture."""
    told = []
    for step in steps:
        end, other = (left, right) if step.from_left else (right, left)
        if step.kind == "gap":
            told.append(f"Time passes: {step.text}." if step.text else "Time passes.")
        elif step.kind == "state":
            told.append(f"{end} is in {step.text}.")
        elif step.kind == "note":
            told.append(f"{end}: {step.text}.")
        else:
            told.append(f"{end} to {other}: {step.text}{', lost on the way' if step.is_lost else ''}.")
    return told


def draw(title: str, steps: list[Step], left: str, right: str, name: str) -> str:
    """The picture: SVG without a colour of its own, all of them are the style sheet's. It is as wide as it must be.

    :param name: an identifier, unique in the page
    """
    first = _beside([step for step in steps if step.from_left])
    second = first + _BETWEEN
    width = second + _beside([step for step in steps if not step.from_left])
    rows: list[str] = []
    y = _TOP + 14.0
    for step in steps:
        rows += _row(step, y, first, second)
        y += _STEP
    height = round(y)
    lives = [
        f'<line class="life" x1="{x}" x2="{x}" y1="{_TOP - 10}" y2="{height - 12}"/>'
        f'<text class="head" x="{x}" y="{_TOP - 18}" text-anchor="middle">{escape(end)}</text>'
        for x, end in ((first, left), (second, right))
    ]
    return "\n".join(
        [
            f'<svg class="ladder" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-t {name}-d"'
            f' style="max-width: {width}px" xmlns="http://www.w3.org/2000/svg">',
            f'<title id="{name}-t">{escape(title)}</title>',
            f'<desc id="{name}-d">{escape(" ".join(in_words(steps, left, right)))}</desc>',
            *lives,
            *rows,
            "</svg>",
        ]
    )


def _beside(steps: list[Step]) -> int:
    """How wide the notes beside a line of life are, in pixels."""
    longest = max((len(step.text) for step in steps if step.kind in ("note", "state")), default=0)
    return max(_BESIDE, round(longest * _LETTER) + 24)


def _row(step: Step, y: float, first: int, second: int) -> list[str]:
    middle = (first + second) / 2
    at = first if step.from_left else second
    onward = 1 if step.from_left else -1
    if step.kind == "gap":
        dots = [
            f'<line class="gap" x1="{x}" x2="{x}" y1="{_number(y - 12)}" y2="{_number(y + 8)}"/>'
            for x in (first, second)
        ]
        return [*dots, _text("time", middle, y + 2, step.text, "middle")]
    if step.kind == "note":
        anchor = "end" if step.from_left else "start"
        dot = f'<circle class="dot" cx="{at}" cy="{_number(y)}" r="3"/>'
        return [dot, _text("note", at - 12 * onward, y + 4, step.text, anchor)]
    if step.kind == "state":
        wide = len(step.text) * _LETTER + 12
        x = at - 12 - wide if step.from_left else at + 12
        box = f'<rect class="state" x="{_number(x)}" y="{_number(y - 10)}" width="{_number(wide)}" height="20" rx="4"/>'
        return [box, _text("state", x + wide / 2, y + 4, step.text, "middle")]
    start, end = at + 4 * onward, (second if step.from_left else first) - 4 * onward
    if step.is_lost:
        end = start + onward * 150
        head = "m-5 -5 l10 10 m0 -10 l-10 10"
    else:
        head = f"m{-7 * onward} -4 l{7 * onward} 4 l{-7 * onward} 4"
    path = f'<path class="{step.kind}" d="M{start} {_number(y)} H{end} {head}"/>'
    return [path, _text(step.kind, middle, y - 5, step.text, "middle")]


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
