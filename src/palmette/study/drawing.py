"""How a study's figures look: one style, colours that everyone can tell apart, SVG that a page holds as it is.

Every figure is drawn 360 units wide, about what a phone has, so that its letters stay readable there; a wide screen
shows it beside its table. The colours are those of Okabe & Ito (2008, "Color Universal Design"), told apart by people
who do not tell red from green; no figure says anything by colour alone. Blue is a gain and vermillion a loss, the
others are regimes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas

WIDTH = 360  # units; one is a CSS pixel where the figure is shown at this width
GAIN, LOSS = "#0072B2", "#D55E00"
INK, MUTED, FAINT = "#1f2937", "#5b6472", "#d5d9df"
_REGIMES = {
    "single_task": ("#1f2937", "o"),
    "multi_task": ("#009E73", "s"),
    "frozen": ("#E69F00", "^"),
    "sequential": ("#CC79A7", "D"),
}
_OTHERS = (
    ("#56B4E9", "v"),
    ("#000000", "P"),
    ("#8c6d00", "X"),
    ("#7a5195", "p"),
    ("#5b6472", "h"),
    ("#b22222", "d"),
    ("#2f6b2f", "*"),
)
# Light towards both ends, so that dark numbers stay readable in every cell.
DIVERGING = LinearSegmentedColormap.from_list("loss to gain", ["#f0a873", "#ffffff", "#7fb9da"])
_STYLE: dict[str, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.formatter.useoffset": False,
    "axes.axisbelow": True,
    "grid.color": "#e8eaee",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "text.color": INK,
    "text.parse_math": False,  # a task's name may hold a dollar sign
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "svg.fonttype": "none",  # letters stay letters: they can be searched, and take the page's font
    "svg.hashsalt": "palmette",  # the same study, the same bytes
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing.

    Attributes:
        name: unique on the page.
        title: what it shows, in a few words (spoken in its place).
        description: how to read it and its main content, for those who cannot see it.
        svg: an <svg> element.
    """

    name: str
    title: str
    description: str
    svg: str


def styles(regimes: Sequence[str]) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each regime, the same in every figure; they repeat after eleven."""
    others = iter(_OTHERS * (1 + len(regimes) // len(_OTHERS)))
    return {regime: _REGIMES.get(regime) or next(others) for regime in regimes}


@contextmanager
def canvas(height: float) -> Iterator[Canvas]:
    """An empty drawing `height` units high, in the report's style whatever the user's own settings."""
    with matplotlib.style.context(["default", _STYLE]):
        canvas = Canvas(figsize=(WIDTH / 72, height / 72), layout="constrained")
        yield canvas


def finished(canvas: Canvas, name: str, title: str, description: str) -> Figure:
    """The drawing as it goes into a page."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Figure(name, title, description, _element(buffer.getvalue(), name, title, description))


def _element(svg: str, name: str, title: str, description: str) -> str:
    """The SVG as an element among others of one page: ids unique, size left to the page, named."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    box = re.search(r'viewBox="[^"]+"', svg)
    start = (  # with its name space, without which the element is no picture as a file by itself
        f'<svg xmlns="http://www.w3.org/2000/svg" {box[0] if box else ""} '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>'
    )
    return start + svg[svg.index(">") + 1 :]


def window(spans: Sequence[tuple[float, float]], *, around: float | None = 0.0) -> tuple[float, float]:
    """Limits of an axis that show all spans, except those so far out that the others would shrink to dots.

    A frozen trunk may cost twenty points where the others differ by half a point: what reaches over five times as far
    as the median span (the nearer of two) is left to an arrow at the edge.
    """
    if not spans:
        return (-1.0, 1.0)
    centre = float(np.median([(low + high) / 2 for low, high in spans])) if around is None else around
    reach = [max(abs(low - centre), abs(high - centre)) for low, high in spans]
    extended = sorted(r for r in reach if r > 0) or [1.0]  # the baseline's own difference, 0, says nothing about scale
    limit = max(r for r in extended if r <= 5 * extended[(len(extended) - 1) // 2])
    low = max(min(centre, *(low for low, _ in spans)), centre - limit)
    high = min(max(centre, *(high for _, high in spans)), centre + limit)
    if high - low < 1e-6:  # nothing varies
        return low - 1.0, high + 1.0
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def beside(axes: Axes, place: float, text: str) -> None:
    """Text to the right of a row of the axes."""
    axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)


def legend(canvas: Canvas, axes: Axes) -> None:
    """What the marks of the axes are, above them, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, int(WIDTH // (30 + 5 * max(map(len, labels), default=1))))
    canvas.legend(handles, labels, loc="outside upper left", ncols=columns, handletextpad=0.3, columnspacing=1.2)


def row_labels(axes: Axes, labels: Sequence[str]) -> None:
    """Names for the rows 0, 1, … of the axes, in place of a scale."""
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
