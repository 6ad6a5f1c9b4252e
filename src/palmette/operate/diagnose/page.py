"""A diagnosis as one HTML page that fetches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from palmette import __version__

_TEMPLATES = Path(__file__).parent / "templates"
_WIDEST = 10.0  # points that fill a gain's bar, unless one is greater


def render(diagnosis: Mapping[str, Any], *, now: datetime) -> str:
    """The page.

    Args:
        diagnosis: as JSON (`Diagnosis.as_json`).
        now: when it was made.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    findings = diagnosis["findings"]
    widest = max([_WIDEST, *(min(finding["gain"]["high"], 100.0) for finding in findings)])
    return (
        templates.get_template("diagnosis.html.j2").render(
            style=Markup((_TEMPLATES / "diagnosis.css").read_text(encoding="utf-8")),  # noqa: S704 - the package's own
            diagnosis=diagnosis,
            bars=[_bar(finding["gain"], widest) for finding in findings],
            leading=findings[0] if findings and findings[0]["confidence"] != "low" else None,
            skipped=_skipped(diagnosis["not_looked_at"]),
            made=now.isoformat(timespec="minutes"),
            version=__version__,
        )
        + "\n"
    )


def _bar(gain: Mapping[str, float], widest: float) -> dict[str, float]:
    """Places of a gain and its interval on a bar, in per cent of its width."""

    def place(points: float) -> float:
        return round(100 * min(max(points, 0.0), widest) / widest, 1)

    low, high = place(gain["low"]), place(gain["high"])
    return {"points": place(gain["points"]), "low": low, "width": round(high - low, 1)}


def _skipped(found: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """(what, why, tasks) of what was not looked at: tasks with the same reason in one line."""
    together: dict[tuple[str, str], list[str]] = {}
    for item in found:
        together.setdefault((item["what"], item["why"]), []).append(item["task"])
    return [(what, why, ", ".join(tasks)) for (what, why), tasks in together.items()]
