"""How a study's numbers and names are written for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"  # where a number would stand


def regime_label(regime: str) -> str:
    """multi_task -> multi-task."""
    return regime.replace("_", "-")


def compared(difference: Mapping[str, Any] | None) -> bool:
    """Whether there is a number: too few runs may have finished for it, or the metric may not allow one."""
    return difference is not None and "difference" in difference


def number(value: float | None, digits: int = 2) -> str:
    """1234.5 -> 1,234.50; a dash where there is none."""
    return NOTHING if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """With its sign; what rounds to zero has none."""
    if value is None:
        return NOTHING
    text = f"{value:+,.{digits}f}"
    return (text if float(text.replace(",", "")) else text[1:]).replace("-", MINUS)


def points(value: float | None, digits: int = 2) -> str:
    """A score as hundredths: 0.9712 -> 97.12."""
    return number(None if value is None else 100 * value, digits)


def signed_points(value: float | None, digits: int = 2) -> str:
    """A difference of scores as hundredths: 0.0031 -> +0.31."""
    return signed(None if value is None else 100 * value, digits)


def affinity(value: float | None) -> str:
    """A share of the loss, in its ten thousandths: a step on one task moves another's loss by no more."""
    return signed(None if value is None else 1e4 * value)


def interval(low: float | None, high: float | None) -> str:
    """Bounds as hundredths: [-0.10, +0.71]."""
    return NOTHING if low is None or high is None else f"[{signed_points(low)}, {signed_points(high)}]"


def p_value(value: float | None) -> str:
    """Three digits, and no claim to more."""
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def large(value: float | None) -> str:
    """A count in thousands or millions: 22713216 -> 22.7 M."""
    if value is None:
        return NOTHING
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.1f}\N{NO-BREAK SPACE}{name}"
    return f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes as kilobytes or megabytes (thousands and millions of them)."""
    if value is None:
        return NOTHING
    scale, unit = (1e6, "MB") if value >= 1e6 else (1e3, "kB")
    return f"{value / scale:,.1f}\N{NO-BREAK SPACE}{unit}"


def duration(seconds: float | None) -> str:
    """In the unit that a person would choose."""
    if seconds is None:
        return NOTHING
    if seconds < 120:
        return f"{seconds:.0f}\N{NO-BREAK SPACE}s"
    if seconds < 7200:
        return f"{seconds / 60:.0f}\N{NO-BREAK SPACE}min"
    return f"{seconds / 3600:.1f}\N{NO-BREAK SPACE}h"


def setting(value: object) -> str:
    """A hyper-parameter's value: four significant digits are enough to read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def short(name: str, length: int) -> str:
    """A name where there is little room: its beginning, and an ellipsis for the rest."""
    return name if len(name) <= length else f"{name[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def pair_label(first: str, second: str, length: int) -> str:
    """Two names, each with half of the room."""
    return f"{short(first, length // 2)}, {short(second, length // 2)}"


def listed(names: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"
