"""The benchmark that cuts the reference study down: what it makes of two studies."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from example_study import example_study
from palmette.study import compare as comparing
from palmette.study import plots, wording
from test_study import InProcess, small

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def cut_study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("cut_study")


def study(decision: str = "share", **found: tuple[str, float]) -> dict[str, Any]:
    """Regime -> verdict and difference, of one task; intervals reach a point to each side."""
    differences = {
        regime: {"verdict": verdict, "difference": value, "low": value - 0.01, "high": value + 0.01}
        for regime, (verdict, value) in found.items()
    }
    return {"differences": {"a": differences}, "recommendation": {"tasks": {"a": {"decision": decision}}}}


def test_verdicts_are_compared_where_both_have_one(cut_study: Any) -> None:
    full = study(multi_task=("helps", 0.02), frozen=("hurts", -0.3), sequential=("helps", 0.02))
    cut = study("split", multi_task=("hurts", -0.02), frozen=("hurts", -0.305))
    cut["differences"]["a"]["sequential"] = {"verdict": "too few runs", "reason": "1 finished"}
    found = cut_study.agreement(full, cut)
    assert [(pair["regime"], pair["same"], pair["opposite"], pair["inside"]) for pair in found["pairs"]] == [
        ("multi_task", False, True, False),
        ("frozen", True, False, True),
    ]
    assert found["decisions"] == {"a": False}


def test_what_one_study_could_not_show_is_not_opposite(cut_study: Any) -> None:
    full, cut = study(multi_task=("helps", 0.02)), study(multi_task=("no difference shown", 0.015))
    (pair,) = cut_study.agreement(full, cut)["pairs"]
    assert (pair["same"], pair["opposite"], pair["inside"]) == (False, False, True)


def test_both_studies_stand_side_by_side_on_the_page(cut_study: Any) -> None:
    full = study(multi_task=("hurts", -0.0026), frozen=("hurts", -0.3))
    cut = study("split", multi_task=("no difference shown", -0.004), frozen=("hurts", -0.28))
    page = importlib.import_module("study_page")
    assert page.markdown(page.agreed(full, cut)).replace(wording.MINUS, "-").splitlines() == [
        "**Verdicts that agree: 1 of 2; that contradict each other: 0; decisions that agree: 0 of 1**",
        "",
        "| task | regime | full study, points | cut study, points | full difference in the cut interval |",
        "| --- | --- | --- | --- | --- |",
        "| a | multi-task | -0.26 [-1.26, +0.74], hurts | -0.40 [-1.40, +0.60], no difference shown | yes |",
        "| a | frozen | -30.00 [-31.00, -29.00], hurts | -28.00 [-29.00, -27.00], hurts | no |",
    ]


def test_the_script_cuts_trunk_and_data_and_reports(
    cut_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path, ("pos", "tone"), epochs=1)
    (tmp_path / "tasks.yaml").write_text(config.dump())
    full = {
        task: {"multi_task": {"verdict": "helps", "difference": 9.0, "low": 8.0, "high": 10.0}} for task in config.tasks
    }
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "study.json").write_text(json.dumps({"differences": full, "recommendation": {}}))
    monkeypatch.setattr(cut_study.common, "use_threads", lambda _: None)  # of all that this process starts
    engine = InProcess()
    monkeypatch.setattr("palmette.study.execute.Processes", lambda _: engine)
    given = ["--config", tmp_path / "tasks.yaml", "--full", tmp_path / "full", "--study", tmp_path / "cut"]
    given += ["--layers", "1", "--share", "0.5", "--regimes", "multi_task", "--seeds", "2", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["cut_study.py", *map(str, given), "--results", str(tmp_path / "results.jsonl")])
    cut_study.main()
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert line["headline"]["full difference inside the cut interval"] == "0 of 2"
    assert line["headline"]["minutes"] < 60
    assert len(engine.ran) == 6
    cut = json.loads((tmp_path / "cut" / comparing.STUDY).read_text())
    assert cut["tasks"]["pos"]["examples"]["train"] == 12
    parameters = [json.loads((folder / "result.json").read_text())["parameters"]["shared"] for folder in engine.ran]
    assert len(set(parameters)) == 1
    cut_study.main()  # all is there already: how long it took is not known
    assert "minutes" not in json.loads(capsys.readouterr().out.strip().splitlines()[-1])["headline"]


@pytest.mark.usefixtures("cut_study")
def test_figures_of_the_page_are_pictures_by_themselves(tmp_path: Path) -> None:
    page = importlib.import_module("study_page")
    figure = plots.forest(example_study())
    page.drawn(figure, tmp_path, "page")
    images = [*tmp_path.glob("*.svg"), *(BENCHMARKS.parent / "docs" / "images").glob("*.svg")]
    assert len(images) > 1
    for image in images:
        assert ElementTree.parse(image).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own
