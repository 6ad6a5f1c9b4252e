"""Reliability diagrams and risk-coverage curves of a bundle's tasks, as one SVG beside the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_SIDE = 200  # of a panel's square
_GAP = 60
_HEAD = 50
_COLOURS = {"before": "#999999", "after": "#0072b2"}  # Okabe and Ito's blue, and grey: told apart by anybody
_DASHES = {"before": ' stroke-dasharray="5 3"', "after": ""}


def draw(calibrations: Mapping[str, Mapping[str, Any]]) -> str:
    """Two panels a task, on test where it is labelled, else on dev (held out).

    Left, share of right claims by confidence, in 15 bins of equally many claims; on the diagonal a confidence means
    what it says. Right, the share that is wrong among the surest claims.

    Args:
        calibrations: what export measured (`palmette.calibration.measure`).
    """
    width = 2 * (_SIDE + _GAP) + _GAP
    height = (_SIDE + _GAP + _HEAD) * len(calibrations) + 20
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="sans-serif" font-size="11" role="img">'
        ),
        "<title>Reliability and risk-coverage of each task, before and after calibration</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for row, (task, found) in enumerate(calibrations.items()):
        top = row * (_SIDE + _GAP + _HEAD) + _HEAD
        curves = {name: found[f"test, {name}"] for name in _COLOURS if f"test, {name}" in found}
        where = "test" if curves else "dev, held out"
        curves = curves or {"after": found["dev, held out"]}
        lines.append(
            f'<text x="{_GAP}" y="{top - 26}" font-size="14" font-weight="bold">{escape(task)} ({where})</text>'
        )
        for number, (name, curve) in enumerate(curves.items()):
            said = f"{name}: ECE {curve['ece']:.3f}, Brier {curve['brier']:.3f}, AURC {curve['aurc']:.3f}"
            place = _GAP + number * (_SIDE + _GAP)
            lines.append(f'<text x="{place}" y="{top - 10}" fill="{_COLOURS[name]}">{said}</text>')
        highest = max([0.05, *(risk for curve in curves.values() for _, risk in curve["risk_coverage"])])
        lines += _frame(_GAP, top, "confidence", "right", 1.0)
        lines += _frame(2 * _GAP + _SIDE, top, "share answered, surest first", "wrong", highest)
        lines.append(_line([(0, 0), (1, 1)], _GAP, top, "#cccccc", ""))
        for name, curve in curves.items():
            bins = [(sure, right) for sure, right, _ in curve["reliability"]]
            lines.append(_line(bins, _GAP, top, _COLOURS[name], _DASHES[name]))
            risks = [(share, risk / highest) for share, risk in curve["risk_coverage"]]
            lines.append(_line(risks, 2 * _GAP + _SIDE, top, _COLOURS[name], _DASHES[name]))
    return "\n".join([*lines, "</svg>", ""])


def _frame(left: int, top: int, across: str, up: str, highest: float) -> list[str]:
    bottom = top + _SIDE
    return [
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#333333"/>',
        f'<text x="{left + _SIDE / 2:g}" y="{bottom + 28}" text-anchor="middle">{across}</text>',
        (
            f'<text x="{left - 30}" y="{top + _SIDE / 2:g}" text-anchor="middle" '
            f'transform="rotate(-90 {left - 30} {top + _SIDE / 2:g})">{up}</text>'
        ),
        f'<text x="{left}" y="{bottom + 14}" text-anchor="middle">0</text>',
        f'<text x="{left + _SIDE}" y="{bottom + 14}" text-anchor="middle">1</text>',
        f'<text x="{left - 4}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{left - 4}" y="{top + 10}" text-anchor="end">{highest:.2g}</text>',
    ]


def _line(points: Sequence[tuple[float, float]], left: int, top: int, colour: str, dashes: str) -> str:
    """Points in the unit square, as a line."""
    placed = " ".join(f"{left + x * _SIDE:.1f},{top + (1 - y) * _SIDE:.1f}" for x, y in points)
    return f'<polyline points="{placed}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
