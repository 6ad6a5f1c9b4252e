"""benchmarks/families.py, on tiny models and corpora: every cell of the table, the ids, and what is kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fakes import tiny_language_model, tiny_t5, tiny_text_config, tiny_trunk
from palmette.config import Config
from palmette.corpus import load_corpus

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FAMILIES = ("multi_task", "single_task", "frozen", "zero_shot", "few_shot", "lora", "text2text")


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, whose children are this process."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import common
    import families

    monkeypatch.setattr(common, "run_child", lambda _, job: families.work(job))
    monkeypatch.setattr(common, "use_threads", lambda _: None)
    return families


def tiny(folder: Path) -> Path:
    """A configuration of two tasks with heads and one without, for every family."""
    data = tiny_text_config(folder, examples=8, epochs=1)
    del data["family"]
    data["trunk"] = {"name": str(tiny_trunk(folder / "trunk", dropout=0.0))}
    data["sources"] = [source for source in data["sources"] if source["name"] in ("words", "summaries")]
    data["sources"][0]["labels"] = {"pos": "pos", "tone": "tone"}
    data["tasks"] = {task: data["tasks"][task] for task in ("pos", "tone", "summary")}
    language_model = str(tiny_language_model(folder / "lm", chat=True, positions=2048))
    data["families"] = {
        "text2text": {"trunk": {"name": str(tiny_t5(folder / "t5"))}},
        "causal_lm": {"trunk": {"name": language_model}, "prompting": {"shots": 2}, "writing": {"longest": 30}},
    }
    path = folder / "families.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def run(families: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> None:
    fixed = ["--config", str(folder / "families.yaml"), "--ids", str(folder / "ids.json"), "--threads", "1"]
    fixed += ["--runs", str(folder / "runs"), "--results", str(folder / "results.jsonl")]
    monkeypatch.setattr(sys, "argv", ["families.py", *fixed, *options])
    families.main()


@pytest.mark.slow
def test_every_cell_is_made_once_and_the_table_is_filled_in(
    families: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny(tmp_path)
    run(families, monkeypatch, tmp_path, "--draw")
    ids = json.loads((tmp_path / "ids.json").read_text())["ids"]
    assert {task: len(found) for task, found in ids.items()} == {"pos": 8, "tone": 8, "summary": 8}
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- families:begin -->\nold\n<!-- families:end -->\nafter\n")
    run(families, monkeypatch, tmp_path, "--into", str(page))
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    rows = {line.split(",")[0].strip("| "): line.split("|")[2:-1] for line in lines if line.startswith("| ")}
    for task in ("pos", "tone"):
        assert all("ms" in cell and "GB" in cell for cell in rows[task])
    blank = [family for family, cell in zip(FAMILIES, rows["summary"], strict=True) if not cell.strip()]
    assert blank == ["multi_task", "single_task", "frozen"]
    cells = {
        (cell["family"], cell["task"], cell["seed"]): cell
        for line in map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
        for cell in line["details"]["cells"]
    }
    assert len(cells) == 3 * 2 * 2 + 2 * 3 + 2 * 3 * 2, "two seeds where something is trained, one where nothing is"
    assert all(cell["examples"] == 8 for cell in cells.values())
    assert cells["text2text", "pos", 1]["unparseable"] == 0, "tags are constrained"
    monkeypatch.setattr(families, "work", lambda _: pytest.fail("a finished cell was made again"))
    run(families, monkeypatch, tmp_path, "--into", str(page))
    assert page.read_text().splitlines() == lines


def test_ids_are_of_texts_and_data_that_changed_is_noticed(
    families: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tiny(tmp_path)
    corpus = load_corpus(Config.load(path), any_family=True)
    ids = families.draw(corpus, "pos")
    assert families.draw(corpus, "pos") == ids
    chosen = families.select(corpus, "pos", ids[:3])
    assert [families.identify(example) for example in chosen] == ids[:3]
    assert all(set(example.labels) == {"pos"} for example in chosen)
    with pytest.raises(SystemExit, match="1 of 2 test examples are not in the data"):
        families.select(corpus, "pos", [ids[0], "0" * 16])


def test_the_committed_ids_are_the_same_number_for_every_task() -> None:
    content = json.loads((BENCHMARKS / "families_ids.json").read_text())
    tasks = Config.load(BENCHMARKS.parent / "configs" / "families.yaml").tasks
    assert list(content["ids"]) == list(tasks)
    assert {len(set(found)) for found in content["ids"].values()} == {300}
