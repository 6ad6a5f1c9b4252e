"""Every number of `palmette check`, on corpora small enough to count by hand."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fakes import ALL_TASKS, tiny_corpora, tiny_encoder, write_jsonl
from palmette.check import Report, check, render, strictest
from palmette.config import Config
from palmette.errors import ReadError
from palmette.licences import family

Rows = Sequence[Mapping[str, Any]]


def source(
    folder: Path, name: str, labels: Mapping[str, Any], splits: Mapping[str, Rows], **more: Any
) -> dict[str, Any]:
    files = {split: write_jsonl(folder / f"{name}-{split}.jsonl", rows) for split, rows in splits.items()}
    return {"format": "jsonl", "name": name, "text": "words", "labels": dict(labels), **files, **more}


def tones(*pairs: tuple[str, str]) -> Rows:
    return [{"words": text.split(), "tone": tone} for text, tone in pairs]


def config(tasks: Mapping[str, Any], *sources: Mapping[str, Any], **more: Any) -> Config:
    return Config.parse({"tasks": tasks, "sources": list(sources), **more})


def shown(report: Report) -> str:
    stream = io.StringIO()
    render(report, Console(file=stream, width=100, highlight=False))
    return stream.getvalue()


TONE = {"tone": {"kind": "text_classification"}}


def test_labels_are_counted_by_split_and_marked_where_train_lacks_them(tmp_path: Path) -> None:
    splits = {
        "train": tones(("a", "up"), ("b", "up"), ("c", "up"), ("d", "down")),
        "dev": tones(("e", "up"), ("f", "odd")),
        "test": tones(("g", "odd"), ("h", "down")),
    }
    report = check(config(TONE, source(tmp_path, "s", {"tone": "tone"}, splits)), encoder=None)
    task = report.tasks["tone"]
    assert task.examples == {"train": 4, "dev": 2, "test": 2}
    assert task.labels["up"] == {"train": 3, "dev": 1, "test": 0}
    assert task.labels["odd"] == {"train": 0, "dev": 1, "test": 1}
    assert task.only_held_out == ("odd",)
    assert "odd* 2" in shown(report)


def test_imbalance_is_the_largest_share_and_normalised_entropy(tmp_path: Path) -> None:
    splits = {"train": tones(("a", "up"), ("b", "up"), ("c", "up"), ("d", "down"))}
    balance = check(config(TONE, source(tmp_path, "s", {"tone": "tone"}, splits)), encoder=None).tasks["tone"].balance
    assert balance is not None
    assert (balance.largest, balance.share) == ("up", 0.75)
    assert balance.entropy == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))


def test_a_single_label_has_no_entropy(tmp_path: Path) -> None:
    splits = {"train": tones(("a", "up"), ("b", "up"))}
    balance = check(config(TONE, source(tmp_path, "s", {"tone": "tone"}, splits)), encoder=None).tasks["tone"].balance
    assert balance is not None
    assert (balance.share, balance.entropy) == (1.0, 0.0)


def test_spans_are_counted_by_type_and_texts_without_one_apart(tmp_path: Path) -> None:
    rows = [
        {"words": ["anna", "b", "paris"], "ner": ["B-PER", "I-PER", "B-LOC"]},
        {"words": ["tom"], "ner": ["B-PER"]},
        {"words": ["cat"], "ner": ["O"]},
    ]
    tasks = {"ner": {"kind": "sequence_labeling", "scheme": "iob2"}}
    task = check(config(tasks, source(tmp_path, "s", {"ner": "ner"}, {"train": rows})), encoder=None).tasks["ner"]
    assert {name: counts["train"] for name, counts in task.labels.items()} == {"PER": 2, "LOC": 1}
    assert task.blank["train"] == 1


def test_numbers_are_described_and_not_counted_as_labels(tmp_path: Path) -> None:
    rows = [{"words": [word], "score": value} for word, value in zip("abcd", [1, 2, 3, 6], strict=True)]
    tasks = {"score": {"kind": "regression"}}
    report = check(config(tasks, source(tmp_path, "s", {"score": "score"}, {"train": rows})), encoder=None)
    task, values = report.tasks["score"], report.tasks["score"].values["train"]
    assert (values.minimum, values.mean, values.maximum) == (1, 3, 6)
    assert values.deviation == pytest.approx(np.std([1, 2, 3, 6]))
    assert task.labels == {}
    assert task.balance is None
    assert "1 to 6, mean 3" in shown(report)


def test_unanswerable_questions_are_a_share(tmp_path: Path) -> None:
    def row(number: int, *, answered: bool) -> dict[str, Any]:
        return {
            "words": f"where {number}",
            "passage": "in paris",
            "answers": [{"text": "paris", "answer_start": 3}] if answered else [],
        }

    rows = [row(n, answered=n > 0) for n in range(4)]
    qa = source(tmp_path, "s", {"qa": "answers"}, {"train": rows}, text_pair="passage")
    report = check(config({"qa": {"kind": "extractive_qa"}}, qa), encoder=None)
    assert report.tasks["qa"].unanswerable == {"train": 0.25}
    assert "25.0% unanswerable in train" in shown(report)


def test_lengths_in_words_and_subwords(tmp_path: Path) -> None:
    # tiny_encoder has `the` and `cat` whole; zq is two characters, two subwords
    splits = {"train": tones(("the cat", "up"), ("the", "up"), ("zq zq zq", "down"))}
    task = check(config(TONE, source(tmp_path, "s", {"tone": "tone"}, splits)), encoder=tiny_encoder()).tasks["tone"]
    assert (task.words.median, task.words.maximum) == (2, 3)
    assert task.words.p95 == pytest.approx(np.percentile([1, 2, 3], 95))
    assert task.subwords is not None
    assert (task.subwords.median, task.subwords.maximum) == (2, 6)


@pytest.mark.parametrize(
    ("words", "windowed", "truncated"),
    [
        (["cat"] * 62, 0, 0),  # 62 and two special tokens are 64
        (["cat"] * 63, 1, 0),
        (["z" * 90], 0, 1),  # one word that no window holds
    ],
)
def test_what_the_trunk_does_not_take_at_once(tmp_path: Path, words: list[str], windowed: int, truncated: int) -> None:
    rows = [{"words": words, "tone": "up"}, *tones(("the cat", "down"))]
    made = config(TONE, source(tmp_path, "s", {"tone": "tone"}, {"train": rows, "dev": tones(("dog", "up"))}))
    report = check(made, encoder=tiny_encoder(max_length=64))
    fit = report.tasks["tone"].fit
    assert fit is not None
    assert fit.windowed == {"train": windowed, "dev": 0, "test": 0}
    assert fit.truncated == {"train": truncated, "dev": 0, "test": 0}
    assert report.limit == 64


def test_without_a_trunk_subwords_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    report = check(config(TONE, source(tmp_path, "s", {"tone": "tone"}, {"train": tones(("a", "up"))})), encoder=None)
    assert report.limit is None
    assert report.tasks["tone"].subwords is None
    assert report.tasks["tone"].fit is None
    assert "no trunk was loaded" in shown(report)


def test_duplicates_and_contradictions_inside_a_split(tmp_path: Path) -> None:
    splits = {
        "train": tones(("a b", "up"), ("a b", "up"), ("a b", "up"), ("c", "up"), ("c", "down"), ("A b", "down")),
        "dev": tones(("c", "up")),  # the other reading is in train: no contradiction inside a split
    }
    report = check(config(TONE, source(tmp_path, "s", {"tone": "tone"}, splits)), encoder=None)
    task = report.tasks["tone"]
    assert task.duplicates == {"train": 2, "dev": 0, "test": 0}
    assert task.contradictory == {"train": 1, "dev": 0, "test": 0}
    (conflict,) = task.conflicts
    assert (conflict.split, conflict.text) == ("train", "c")
    path = tmp_path / "s-train.jsonl"
    assert [(r.label, r.origin) for r in conflict.readings] == [("up", f"{path}:4"), ("down", f"{path}:5")]
    assert f"{path}:5" in shown(report)


def test_a_contradiction_names_the_file_that_holds_the_label_and_the_tags_that_differ(tmp_path: Path) -> None:
    def rows(key: str, *tags: list[str]) -> Rows:
        return [{"words": ["the", "cat", "sat"], key: found} for found in tags]

    tasks = {"pos": {"kind": "sequence_labeling"}, "ner": {"kind": "sequence_labeling"}}
    first = source(tmp_path, "one", {"pos": "pos"}, {"train": rows("pos", ["D", "N", "V"], ["D", "N", "V"])})
    second = source(tmp_path, "two", {"ner": "ner"}, {"train": rows("ner", ["O", "O", "O"], ["O", "X", "O"])})
    report = check(config(tasks, first, second), encoder=None)
    assert report.fused["train"] == 2
    assert report.tasks["pos"].duplicates["train"] == 1
    (conflict,) = report.tasks["ner"].conflicts
    path = tmp_path / "two-train.jsonl"
    assert [(r.label, r.origin) for r in conflict.readings] == [("cat/O", f"{path}:1"), ("cat/X", f"{path}:2")]


def test_readings_of_answers_show_what_differs(tmp_path: Path) -> None:
    both = [{"text": "paris", "answer_start": 3}, {"text": "in paris", "answer_start": 0}]
    rows = [{"words": "where", "p": "in paris", "answers": answers} for answers in (both, both[:1], [])]
    qa = source(tmp_path, "s", {"qa": "answers"}, {"train": rows}, text_pair="p")
    (conflict,) = check(config({"qa": {"kind": "extractive_qa"}}, qa), encoder=None).tasks["qa"].conflicts
    assert [r.label for r in conflict.readings] == ["paris (3) | in paris (0)", "paris (3)", "unanswerable"]


def test_readings_of_texts_are_shown_with_all_their_references(tmp_path: Path) -> None:
    rows: Rows = [{"words": ["a", "cat"], "said": said} for said in (["a cat", "cats", "a dog"], ["a cat"])]
    texts = source(tmp_path, "s", {"said": "said"}, {"train": rows})
    declared = config({"said": {"kind": "generation"}}, texts, family="causal_lm")
    (conflict,) = check(declared, encoder=None).tasks["said"].conflicts
    assert [r.label for r in conflict.readings] == ["a cat | cats | a dog", "a cat"]


def test_leakage_between_all_splits_of_all_sources(tmp_path: Path) -> None:
    tasks = {**TONE, "mood": {"kind": "text_classification"}}
    first = source(
        tmp_path,
        "one",
        {"tone": "tone"},
        {
            "train": tones(("a b", "up"), ("own text", "up"), ("own text", "up"), ("c", "down")),
            "dev": tones(("C", "up"), ("d", "up")),
            "test": tones(("own text", "up"), ("d", "up")),
        },
    )
    second = source(
        tmp_path,
        "two",
        {"mood": "tone"},
        {"train": tones(("x", "up")), "test": tones(("A b", "up"), ("own text", "up"), ("own text", "down"))},
    )
    report = check(config(tasks, first, second), encoder=None)
    found = {
        (o.source, o.split, o.held_out, o.held_out_split): (o.texts, o.examples, o.recurring, o.verbatim, o.withheld)
        for o in report.leakage
    }
    assert found == {
        ("one", "train", "one", "dev"): (1, 1, 1, 0, 0),  # c and C
        ("one", "train", "one", "test"): (1, 2, 1, 1, 0),
        ("one", "dev", "one", "test"): (1, 1, 1, 1, 0),
        # `a b` is withheld; `own text` is in the source's own test, too
        ("one", "train", "two", "test"): (2, 3, 3, 2, 1),
    }
    assert report.withheld == {"one": 1}
    assert report.tasks["tone"].examples["train"] == 3
    assert [o["fate"] for o in report.as_json()["leakage"]].count("1 withheld") == 1
    assert "1 withheld" in shown(report)


def test_leaks_may_be_left_in(tmp_path: Path) -> None:
    first = source(tmp_path, "one", {"tone": "tone"}, {"train": tones(("a", "up"), ("b", "up"))})
    second = source(tmp_path, "two", {"tone": "tone"}, {"test": tones(("a", "up"))})
    report = check(config(TONE, first, second, withhold_leaks=False), encoder=None)
    assert report.tasks["tone"].examples["train"] == 2
    assert report.leakage[0].withheld == 0
    assert "withhold_leaks is off" in shown(report)


def test_sampling_counts_what_an_epoch_draws(tmp_path: Path) -> None:
    tasks = {**TONE, "mood": {"kind": "text_classification"}}
    first = source(tmp_path, "one", {"tone": "tone"}, {"train": tones(*((f"t{n}", "up") for n in range(30)))})
    second = source(tmp_path, "two", {"mood": "tone"}, {"train": tones(*((f"m{n}", "up") for n in range(10)))})
    proportional = check(config(tasks, first, second), encoder=None).tasks
    assert {task: (report.draws, report.share) for task, report in proportional.items()} == {
        "tone": (1.0, 0.75),
        "mood": (1.0, 0.25),
    }
    uniform = check(config(tasks, first, second, mixing={"kind": "uniform"}), encoder=None).tasks
    assert uniform["mood"].draws == pytest.approx(2.0)
    assert uniform["tone"].draws == pytest.approx(2 / 3)
    assert uniform["mood"].share == pytest.approx(0.5)


def test_sources_and_the_strictest_licence(tmp_path: Path) -> None:
    first = source(tmp_path, "one", {"tone": "tone"}, {"train": tones(("a", "up"))}, license="MIT")
    rows = tones(("hej", "up"))
    second = source(tmp_path, "two", {"tone": "tone"}, {"train": rows}, license="CC-BY-SA-4.0", language="da")
    report = check(config(TONE, first, second), encoder=None)
    assert report.licence == "CC-BY-SA-4.0"
    assert report.sources["two"].language == "da"
    assert report.sources["one"].language == "en"
    assert report.sources["two"].records == {"train": 1}
    third = source(tmp_path, "three", {"tone": "tone"}, {"train": tones(("b", "up"))})
    assert check(config(TONE, first, second, third), encoder=None).licence == "unstated"


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC0-1.0", "public domain"),
        ("public domain", "public domain"),
        ("MIT", "permissive"),
        ("Apache 2.0", "permissive"),
        ("BSD-3-Clause", "permissive"),
        ("CC BY 4.0", "permissive"),
        ("CC-BY-3.0-AU", "permissive"),
        ("cc-by", "permissive"),
        ("CC-BY-SA-4.0", "share-alike"),
        ("CC BY-SA 4.0", "share-alike"),
        ("GPL-3.0-or-later", "share-alike"),
        ("LGPL-2.1", "share-alike"),
        ("CC-BY-NC-4.0", "non-commercial"),
        ("CC BY-NC-SA 3.0", "non-commercial"),
        ("CC-BY-NC-ND-4.0", "research-only or no derivatives"),
        ("CC-BY-ND-4.0", "research-only or no derivatives"),
        ("research-only", "research-only or no derivatives"),
        ("for research use only", "research-only or no derivatives"),
        ("Example Corp. terms", "unknown"),
        ("mitigated", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
        ("MIT AND CC-BY-NC-4.0", "non-commercial"),
        ("MIT OR GPL-3.0-only", "permissive"),
    ],
)
def test_families_of_licences(licence: str | None, expected: str) -> None:
    assert family(licence) == expected


def test_strictest_of_several_licences() -> None:
    ordered = ["CC0-1.0", "MIT", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "research-only", None]
    for place in range(1, len(ordered) + 1):
        assert strictest(ordered[:place]) == (ordered[place - 1] or "unstated")
        assert strictest(reversed(ordered[:place])) == (ordered[place - 1] or "unstated")
    assert strictest(["GPL-3.0-only", "MIT", "CC-BY-SA-4.0", "CC-BY-SA-4.0"]) == "CC-BY-SA-4.0 AND GPL-3.0-only"
    assert strictest(["MIT", "some terms"]) == "some terms"
    assert strictest(["", None]) == "unstated"
    assert strictest([]) == "unstated"


def test_all_kinds_in_one_report_that_is_json_and_fits_100_columns(tmp_path: Path) -> None:
    made = Config.parse({"tasks": ALL_TASKS, "sources": tiny_corpora(tmp_path)})
    report = check(made, encoder=tiny_encoder())
    assert set(json.loads(json.dumps(report.as_json()))["tasks"]) == set(ALL_TASKS)
    text = shown(report)
    assert all(task in text for task in ALL_TASKS)
    # only file:line, which must stay whole to be of use, may be longer
    assert all(len(line) <= 100 or "jsonl:" in line for line in text.splitlines())


def test_many_labels_and_warnings_are_cut_with_a_count(tmp_path: Path) -> None:
    train = tones(*((f"t{n}", f"label-{n:03}") for n in range(150)), ("u", "label-007"))
    made = config(TONE, source(tmp_path, "s", {"tone": "tone"}, {"train": train, "test": tones(("v", "[bold]"))}))
    text = shown(check(made, encoder=None))
    assert "label-007 2 · label-000 1" in text
    assert "and 142 more" in text
    assert "[bold]* 1" in " ".join(text.split())  # not read as markup
    assert len(text.splitlines()) < 50


def test_strict_refuses_repairs(tmp_path: Path) -> None:
    rows = [{"words": ["a", "b"], "ner": ["O", "I-PER"]}]
    tasks = {"ner": {"kind": "sequence_labeling", "scheme": "iob2"}}
    made = config(tasks, source(tmp_path, "s", {"ner": "ner"}, {"train": rows}))
    assert any("repaired" in warning for warning in check(made, encoder=None).warnings)
    with pytest.raises(ReadError, match=r"s-train\.jsonl:1: task ner"):
        check(made, strict=True, encoder=None)


def test_importing_it_brings_no_torch() -> None:
    program = "import sys, palmette.check; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
