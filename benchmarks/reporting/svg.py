"""As much of SVG as the plots need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr


@dataclass(frozen=True)
class Theme:
    """Colours, for a light or a dark page. The hues can be told apart with any colour vision (Okabe and Ito, 2008)."""

    name: str
    page: str
    ink: str
    faint_ink: str
    line: str
    ours: str
    usual: str
    others: str
    loops: tuple[str, str, str]


LIGHT = Theme(
    "light",
    "#ffffff",
    "#1f2328",
    "#59636e",
    "#d1d9e0",
    "#0072b2",
    "#9a9fa6",
    "#c9cdd2",
    ("#0072b2", "#d55e00", "#009e73"),
)
DARK = Theme(
    "dark",
    "#0d1117",
    "#f0f6fc",
    "#9198a1",
    "#3d444d",
    "#56b4e9",
    "#7d848d",
    "#4d545d",
    ("#56b4e9", "#e69f00", "#2fc79a"),
)
THEMES = (LIGHT, DARK)

_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


class Canvas:
    """Draws downwards from the left upper corner, in pixels."""

    def __init__(self, theme: Theme, width: int, title: str, description: str) -> None:
        self.theme = theme
        self._width = width
        self._title = title
        self._description = description
        self._parts: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 12,
        color: str = "",
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """Write a line of text that stands on ``y``."""
        weight = ' font-weight="600"' if bold else ""
        fill = color or self.theme.ink
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{weight}>'
            f"{escape(text)}</text>"
        )

    def bar(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """Draw a rectangle."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" rx="1.5" '
            f'fill="{color}"/>'
        )

    def line(self, points: Sequence[tuple[float, float]], color: str, *, width: float = 1, dash: str = "") -> None:
        """Draw a curve through all the points."""
        through = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<polyline points="{through}" fill="none" stroke="{color}" stroke-width="{width}"{dashes}/>'
        )

    def dot(self, x: float, y: float, color: str) -> None:
        """Draw a point of a curve."""
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>')

    def document(self, height: float) -> str:
        """The whole document."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self._width}" height="{height:.0f}" '
            f'viewBox="0 0 {self._width} {height:.0f}" role="img" aria-label={quoteattr(self._title)} '
            f'font-family="{_FONT}">\n'
            f"<title>{escape(self._title)}</title>\n<desc>{escape(self._description)}</desc>\n"
            f'<rect width="100%" height="100%" fill="{self.theme.page}"/>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )
