"""A study's folder -> its page and its CSV files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from palmette.errors import MissingExtraError, RunError
from palmette.study.sheets import write_sheets

VERSION = 2  # of study.json and ledger.json


def write_report(folder: Path) -> None:
    """Write `report.html` and `csv/*.csv` from `study.json` and `ledger.json`; both give the same bytes every time.

    Raises:
        RunError: the folder is no study, or one of another version of Palmette.
        MissingExtraError: matplotlib or Jinja2 is not installed.
    """
    study, ledger = _read(folder / "study.json"), _read(folder / "ledger.json")
    if study.get("version") != VERSION:
        raise RunError(
            f"{folder / 'study.json'}: expected version {VERSION}, found {study.get('version')}: run the study again "
            f"(palmette compare … --out {folder}); finished runs are reused"
        )
    try:
        from palmette.study.page import render
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "matplotlib", "study") from error
    write_sheets(folder / "csv", study, ledger)
    (folder / "report.html").write_text(render(study, ledger), encoding="utf-8", newline="\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{path.parent}: is no finished study (no {path.name}): palmette compare … --out {path.parent}"
        ) from error
    except ValueError as error:
        raise RunError(f"{path}: is damaged ({error}): run the study again; finished runs are reused") from error
    return content
