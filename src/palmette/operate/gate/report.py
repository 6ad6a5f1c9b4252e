"""A gate's folder: gate.json and gate.html."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palmette.errors import MissingExtraError

JSON, PAGE = "gate.json", "gate.html"


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write what a gate found; an earlier gate's files in the folder are replaced.

    Raises:
        MissingExtraError: matplotlib or Jinja2 is not installed.
    """
    try:
        from palmette.operate.gate.page import render
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "matplotlib", "study") from error
    page = render(report)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    (folder / PAGE).write_text(page, encoding="utf-8", newline="\n")
