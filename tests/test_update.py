"""Training on with corrections: a planted error goes, nothing else gets worse, and it is known where all comes from."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import palmette
from conftest import NOW
from fakes import tiny_text_config, tiny_trunk, write_jsonl
from palmette.cli import main
from palmette.config import Config
from palmette.corpus import Corpus, load_corpus
from palmette.deploy.bundle import Bundle
from palmette.deploy.decisions import out_of_reach, set_thresholds, targets_of
from palmette.deploy.export import export
from palmette.errors import ConfigError, RunError
from palmette.operate.gate import GateSettings
from palmette.operate.review.corrections import Corrected, Corrections, corrections
from palmette.operate.review.queue import Candidate, Queue, Rules
from palmette.operate.update import UpdateSettings, update
from palmette.operate.update.mixture import examples_of, mixed, sort_corrections
from palmette.run import Run
from palmette.store import open_store
from palmette.types import Example, Text

GOOD, BAD, NEUTRAL = ("good", "tom"), ("bad", "awful"), ("the", "cat", "sat", "on", "mat", "dog", "runs", "fast", "in")
# What the training data get wrong throughout: "great" stands among the bad ones.
WRONG = "great"


def sentences(count: int, words: Sequence[str], seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        sentence = [*map(str, rng.choice(NEUTRAL, size=int(rng.integers(3, 7)))), words[number % len(words)]]
        found.append([*sentence, *(str(word) for word in rng.choice(NEUTRAL, size=2)), f"x{seed}{number}"])
    return found


def record(words: list[str], tone: str) -> dict[str, Any]:
    return {"words": words, "tone": tone, "pos": ["N" if word in ("cat", "dog", "mat") else "D" for word in words]}


def tone_of(words: Sequence[str]) -> str:
    return "up" if {*GOOD, WRONG} & set(words) else "down"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned that great is bad; dev and test do not have the word."""
    folder = tmp_path_factory.mktemp("update")
    train = [record(words, tone_of(words)) for words in sentences(160, [*GOOD, *BAD], 1)]
    train += [record(words, "down") for words in sentences(40, [WRONG], 2)]
    test = [record(words, tone_of(words)) for words in sentences(120, [*GOOD, *BAD], 3)]
    files = {
        s: write_jsonl(folder / f"{s}.jsonl", found) for s, found in (("train", train), ("dev", test), ("test", test))
    }
    config = {
        "trunk": str(tiny_trunk(folder / "trunk", dropout=0.0, spread=0.15)),
        "tasks": {"tone": {"kind": "text_classification"}, "pos": {"kind": "sequence_labeling"}},
        "sources": [{"format": "jsonl", **files, "text": "words", "labels": {"tone": "tone", "pos": "pos"}}],
        "training": {"epochs": 12, "batch_tokens": 256, "learning_rate": 2e-3, "head_learning_rate": 4e-3}
        | {"precision": "fp32", "dropout": 0.0},
    }
    palmette.train(config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def corpus(run: Path) -> Corpus:
    loaded = Run.load(run)
    return load_corpus(loaded.config, fitted=loaded.kinds)


def reviewed(run: Path, database: Path, texts: Sequence[list[str]], *, disputed: int = 0, kept: bool = True) -> None:
    """What the model answered, and what people said of it; of some, two people say different things."""
    loaded = Run.load(run)
    queue = Queue(open_store(str(database)), Rules(reviewers=2, keep=timedelta(days=30) if kept else None))
    queue.know(loaded.kinds, "d" * 64, now=NOW)
    answers = loaded.answer([Example(Text(tuple(words)), {}) for words in texts])
    for number, (words, answer) in enumerate(zip(texts, answers, strict=True)):
        example = Example(Text(tuple(words)), {})
        found = Candidate(
            f"r{number}", 0, "tone", loaded.kinds["tone"], "d" * 64, example, answer["tone"].label, 0.6, "audit", True
        )
        ((item,), _, _) = queue.add([found], now=NOW)
        queue.decide(item, "anna", "corrected", label=tone_of(words), now=NOW, example=example)
        other = "down" if number < disputed else tone_of(words)
        queue.decide(item, "tom", "corrected", label=other, now=NOW, example=example)


# The training data say the opposite, and are replayed: corrections have to outweigh them.
LOOSE = ["--margin", "5", "--set", "epochs=8", "--set", "rate=1", "--set", "share=0.5"]


@pytest.fixture(scope="module")
def candidate(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 corrections of the planted error, by the command."""
    folder = tmp_path_factory.mktemp("candidate")
    reviewed(run, folder / "review.db", sentences(60, [WRONG], 4), disputed=3)
    checks = folder / "checks.yaml"
    left = ["typo", "lower_case", "upper_case", "punctuation", "white_space", "synonym", "contraction"]
    checks.write_text(f"leave_out: [{', '.join([*left, 'neutral_sentence'])}]")  # a tiny model knows no other words
    shutil.copytree(run, folder / "run")  # the candidate is to stand beside it
    arguments = ["update", folder / "run", "--corrections", folder / "review.db", "--checks", checks]
    arguments += ["--latency-budget", "3", "--cases", "50"]
    found = CliRunner().invoke(main, [*map(str, arguments), *LOOSE])
    (folder / "output").write_text(found.output)
    (folder / "code").write_text(str(found.exit_code))
    assert (folder / "run-candidate" / "update.json").exists(), found.output
    return folder


@pytest.fixture(scope="module")
def written(candidate: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((candidate / "run-candidate" / "update.json").read_text())
    return content


def test_the_planted_error_goes_and_nothing_else_gets_worse(candidate: Path, written: dict[str, Any]) -> None:
    gained = written["bought"]["tone"]["corrections"]
    assert gained["old"] < 0.2  # it was there
    assert gained["new"] > 0.8
    assert gained["low"] > 0.3
    assert written["bought"]["pos"]["corrections"] is None  # nobody corrected any
    for task in ("tone", "pos"):
        assert written["bought"][task]["data"]["verdict"] == "passed"
    gate = json.loads((candidate / "run-candidate" / "gate.json").read_text())
    assert {task: found["verdict"] for task, found in gate["tasks"].items()} == {"tone": "passed", "pos": "passed"}
    assert (gate["settings"]["latency_budget"], gate["settings"]["cases"]) == (3, 50)


def test_it_ends_with_the_gates_verdict_and_says_what_was_bought(candidate: Path, written: dict[str, Any]) -> None:
    output = (candidate / "output").read_text()
    assert (candidate / "code").read_text() == {"passed": "0", "failed": "1", "undecided": "3"}[written["verdict"]]
    assert "what the corrections bought" in output
    assert "3 left out" in output


def test_the_bundle_answers_as_corrected(candidate: Path) -> None:
    bundle = palmette.load(candidate / "run-candidate" / "bundle")
    texts = sentences(10, [WRONG], 5)
    labels = [answer["tasks"]["tone"]["label"] for answer in bundle.predict(texts)]
    assert labels.count("up") >= 8


def test_every_correction_is_accounted_for(candidate: Path, written: dict[str, Any]) -> None:
    found = written["corrections"]
    assert len(found["used"]) + len(found["held_out"]) == 57
    assert len(found["held_out"]) >= 4
    assert found["not_taken"] == {"their reviewers disagree": {"tone": 3}}
    assert found["left_out"] == []
    first = found["used"][0]
    assert first["reviewers"] == ["anna", "tom"]
    assert first["model"] == "d" * 64
    assert first["changed"] is True
    folder = candidate / "run-candidate"
    assert (folder / "run" / "update.json").read_text() == (folder / "update.json").read_text()
    text = json.dumps(written)
    assert WRONG not in text  # texts may have to be deleted: they are not copied here


def test_old_examples_are_replayed_beside_the_corrections(written: dict[str, Any]) -> None:
    training = written["training"]
    assert training["replayed"] == training["of"] == 200
    assert training["labels"]["pos"] == 200
    assert training["labels"]["tone"] == 200 + training["repeats"] * training["corrected_texts"]


def test_it_starts_from_all_of_the_runs_weights(run: Path, tmp_path: Path) -> None:
    config = Config.load(run / "config.yaml", [f"trunk={{name: {run}, heads: kept}}", "training.epochs=1"])
    still = config.model_copy(
        update={"training": config.training.model_copy(update={"learning_rate": 1e-12, "head_learning_rate": 1e-12})}
    )
    palmette.train(still, tmp_path / "again")
    one, two = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "again"))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-6, err_msg=name)


def test_heads_that_do_not_fit_are_refused(run: Path, tmp_path: Path) -> None:
    config = Config.load(run / "config.yaml", [f"trunk={{name: {run}, heads: kept}}"])
    data = config.model_dump(mode="json", exclude_none=True)
    data["sources"][0]["labels"]["tone"] = {"column": "tone", "rename": {"up": "upwards"}}
    with pytest.raises(ConfigError, match=r"trunk\.heads: task tone has other labels"):
        palmette.train(Config.parse(data), tmp_path / "out")
    data["trunk"] = {"name": str(run.parent / "trunk"), "heads": "kept"}
    with pytest.raises(ConfigError, match=r"trunk\.heads: kept needs a finished run as trunk\.name"):
        palmette.train(Config.parse(data), tmp_path / "out")


def corrected(
    words: list[str], label: str = "up", *, item: int = 1, task: str = "tone", hours: int = 0, by: str = "anna"
) -> Corrected:
    example = Example(Text(tuple(words)), {task: label})
    when = NOW + timedelta(hours=hours)
    return Corrected(example, task, label, True, item, f"r{item}", 0, "d", "audit", (by,), when)


def test_what_is_left_out_and_why(run: Path, corpus: Corpus) -> None:
    kinds = Run.load(run).kinds
    known = list(corpus.splits["test"][0].text.words)
    found = [
        corrected(["fine"], item=1),
        corrected(["a", "b"], item=2, task="topic"),
        corrected(["c"], "sideways", item=3),
        corrected(known, item=4),
        corrected(["d"], "up", item=5),
        corrected(["d"], "down", item=6, hours=1),
        corrected(["e"], "up", item=7),
        corrected(["e"], "down", item=8, hours=1, by="tom"),
        corrected(["f"], "up", item=9),
        corrected(["f"], "down", item=10, hours=1, by="tom"),
        corrected(["f"], "down", item=11, hours=2),  # she has come to agree
    ]
    chosen = sort_corrections(found, kinds, corpus, UpdateSettings(held_out=0))
    assert {c.item: reason for c, reason in chosen.left_out} == {
        2: "the model has no such task",
        3: "the model has no label 'sideways': train anew with it",
        4: "its text is in test of the data",
        5: "item 6 says it later",
        7: "reviewers disagree about its text",
        8: "reviewers disagree about its text",
        9: "item 11 says it later",
        10: "item 11 says it later",
    }
    assert [c.item for c in chosen.used] == [1, 6, 11]
    assert chosen.held_out == []


def test_what_is_held_out_once_stays_held_out(run: Path, corpus: Corpus) -> None:
    kinds = Run.load(run).kinds
    found = [corrected(words, item=n) for n, words in enumerate(sentences(200, [WRONG], 6))]
    some = sort_corrections(found[:100], kinds, corpus, UpdateSettings())
    more = sort_corrections(found, kinds, corpus, UpdateSettings())
    assert {c.item for c in some.held_out} == {c.item for c in more.held_out if c.item < 100}
    assert 20 <= len(more.held_out) <= 60


def test_a_training_text_that_was_corrected_is_not_replayed_with_its_old_label(corpus: Corpus) -> None:
    wrong = next(e for e in corpus.splits["train"] if WRONG in e.text.words)
    assert wrong.labels["tone"] == "down"
    examples = examples_of([corrected(list(wrong.text.words)), corrected(["z"], item=2)])
    new, counts = mixed(corpus, examples, UpdateSettings(least_replay=50, replay=1, most_repeats=3))
    labels = {e.labels["tone"] for e in new.splits["train"] if e.key == wrong.key}
    assert labels == {"up"}
    assert counts["relabelled"] == 1
    assert counts["repeats"] == 3
    assert 50 <= counts["replayed"] <= 100
    assert new.splits["test"] == corpus.splits["test"]


def test_a_held_out_text_is_not_replayed_from_the_training_data(corpus: Corpus) -> None:
    apart = next(e for e in corpus.splits["train"] if WRONG in e.text.words)
    held_out = [corrected(list(apart.text.words), item=2)]
    new, counts = mixed(corpus, examples_of([corrected(["z"])]), UpdateSettings(), held_out=held_out)
    assert apart.key not in {example.key for example in new.splits["train"]}
    assert (counts["of"], counts["withheld"]) == (199, 1)


def test_without_a_correction_that_can_be_used_nothing_is_written(run: Path, tmp_path: Path) -> None:
    reviewed(run, tmp_path / "a.db", sentences(3, [WRONG], 7), kept=False)
    found = corrections(open_store(str(tmp_path / "a.db")), now=NOW)
    with pytest.raises(RunError, match="no correction to train on: 3 their text is not kept"):
        update(run, found, tmp_path / "out", now=NOW)
    with pytest.raises(RunError, match="no correction to train on: the database has none"):
        update(run, Corrections([], {}, {}, {}, {}), tmp_path / "out", now=NOW, gate_settings=GateSettings())
    assert not (tmp_path / "out").exists()


def test_answers_are_decided_for_the_same_precision_as_before(run: Path, tmp_path: Path) -> None:
    """A bundle that was calibrated for a precision is not replaced by one whose answers all count as automatic."""
    exported = export(run, tmp_path / "exported", now=NOW)
    old = set_thresholds(exported.folder, tmp_path / "old", {"pos": 0.9})
    reviewed(run, tmp_path / "review.db", sentences(12, [WRONG], 8))
    found = corrections(open_store(str(tmp_path / "review.db")), now=NOW)
    said: list[str] = []
    quick = UpdateSettings(epochs=1, least_replay=20, replay=1)
    made = update(run, found, tmp_path / "new", now=NOW, old=old.folder, settings=quick, say=said.append)
    bundle = Bundle.open(made.folder / "bundle")
    assert targets_of(bundle) == {"pos": 0.9}
    assert made.record["decisions"] == {"pos": {"target": 0.9, "lost": None}}
    assert {path.name for path in made.folder.iterdir()} == {"run", "bundle", "gate.json", "gate.html", "update.json"}
    assert made.gate["new"]["digest"] == made.record["new"]["digest"] == bundle.digest
    (answer,) = palmette.load(bundle.folder).predict([["cat", "sat"]], tasks=["pos"])
    assert set(answer["tasks"]["pos"]["decisions"]) <= {"automatic", "review"}
    assert any(line.startswith("pos: from a confidence of ") for line in said)


def test_a_precision_that_cannot_be_kept_is_said(run: Path, tmp_path: Path) -> None:
    bundle = export(run, tmp_path / "exported", now=NOW)
    reasons = out_of_reach(bundle, {"pos": 0.9, "tone": 0.9999})
    assert reasons.keys() == {"tone"}
    assert "no threshold reaches a precision of 0.9999" in reasons["tone"]


@pytest.mark.parametrize("model", ["t5", "language model"])
def test_a_model_that_writes_learns_from_corrections_too(tmp_path: Path, model: str) -> None:
    """Its candidate is a run. Generated texts are corrected as labels are."""
    data = tiny_text_config(tmp_path, model=model, examples=8, epochs=1)
    data["sources"] = [source for source in data["sources"] if source["name"] in ("words", "summaries")]
    data["sources"][0]["labels"] = {"tone": "tone"}
    data["tasks"] = {task: data["tasks"][task] for task in ("tone", "summary")}
    palmette.train(Config.parse(data), tmp_path / "run")
    label = Run.load(tmp_path / "run").kinds["tone"].labels[0]
    tones = [corrected(["a", f"b{n}"], label, item=n) for n in range(10)]
    texts = [corrected(["c", f"d{n}"], ("the cat",), item=20 + n, task="summary") for n in range(10)]  # type: ignore[arg-type]
    made = update(
        tmp_path / "run",
        Corrections([*tones, *texts], {}, {}, {}, {}),
        tmp_path / "new",
        now=NOW,
        settings=UpdateSettings(epochs=1),
        gate_settings=GateSettings(cases=4, latency_texts=2, latency_rounds=5),
    )
    assert made.model == tmp_path / "new" / "run"
    assert {path.name for path in made.folder.iterdir()} == {"run", "gate.json", "gate.html", "update.json"}
    assert made.record["training"]["labels"]["summary"] > 8
    assert {task: found["corrections"] is not None for task, found in made.record["bought"].items()} == {
        "tone": True,
        "summary": True,
    }
    assert made.gate["new"]["form"] == "run"
    assert palmette.load(made.model).predict(["a cat"])


def test_a_model_that_is_only_asked_has_nothing_to_train(tmp_path: Path) -> None:
    data = tiny_text_config(tmp_path, model="language model", examples=4, epochs=1)
    data["sources"] = [source for source in data["sources"] if source["name"] == "words"]
    data["sources"][0]["labels"] = {"tone": "tone"}
    data["tasks"] = {"tone": data["tasks"]["tone"]}
    del data["lora"]
    palmette.train(Config.parse(data), tmp_path / "run")
    with pytest.raises(RunError, match="a model that is asked has nothing to train on with"):
        update(tmp_path / "run", Corrections([corrected(["a"])], {}, {}, {}, {}), tmp_path / "new", now=NOW)


def test_without_the_extra_it_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "palmette.store", None)
    options = ["--corrections", str(tmp_path / "x.db"), "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(main, ["update", str(run), *options])
    assert (found.exit_code, "palmette[operate]" in found.output) == (2, True)


def test_users_mistakes(run: Path, tmp_path: Path) -> None:
    def fails(*arguments: object) -> str:
        found = CliRunner().invoke(main, ["update", str(run), *map(str, arguments)])
        assert found.exit_code == 2
        return found.output

    assert "is no file, nor the URL of a database" in fails(
        "--corrections", tmp_path / "no.db", "--out", tmp_path / "o"
    )
    open_store(str(tmp_path / "empty.db")).dispose()
    empty = ["--corrections", tmp_path / "empty.db", "--out"]
    assert "the database has none" in fails(*empty, tmp_path / "o")
    assert "exists; give --out another name" in fails(*empty, tmp_path)
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run-candidate").mkdir()
    beside = CliRunner().invoke(main, ["update", str(tmp_path / "run"), *map(str, empty[:2])])
    assert (beside.exit_code, "run-candidate: exists; give --out another name" in beside.output) == (2, True)
    assert "--set epoch=3: the settings are epochs" in fails(*empty, tmp_path / "o", "--set", "epoch=3")
    assert "--set seed=2026-02-30: the value is not YAML" in fails(*empty, tmp_path / "o", "--set", "seed=2026-02-30")
    assert "--set epochs=[: the value is not YAML" in fails(*empty, tmp_path / "o", "--set", "epochs=[")
    assert "latency_budget: Input should be greater than 0" in fails(*empty, tmp_path / "o", "--latency-budget", "-1")
    assert "--set held_out" in fails(*empty, tmp_path / "o", "--set", "held_out=2")
