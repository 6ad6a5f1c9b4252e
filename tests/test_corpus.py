"""From a configuration to fused examples: nothing lost, nothing leaked, every error with its place."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import write_jsonl
from palmette.config import Config
from palmette.corpus import Corpus, load_corpus, source_names
from palmette.data.fuse import find_leakage, folded, fuse
from palmette.errors import ConfigError, ReadError
from palmette.types import SPLITS, Example, Text

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("PALMETTE_DATA", ROOT.parent / "shared" / "data"))
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"no corpora in {DATA} (set PALMETTE_DATA to their folder)")

POS = {"kind": "sequence_labeling"}
NER = {"kind": "sequence_labeling", "scheme": "iob2"}
TONE = {"kind": "text_classification"}


def source(folder: Path, name: str, labels: Mapping[str, Any], **splits: Any) -> dict[str, Any]:
    """A JSONL source; a split is a list of rows, anything else goes into the source as it is."""
    made = {
        key: write_jsonl(folder / f"{name}-{key}.jsonl", value) if key in SPLITS and isinstance(value, list) else value
        for key, value in splits.items()
    }
    return {"format": "jsonl", "name": name, "text": "words", "labels": dict(labels), **made}


def rows(*texts: str, **labels: Any) -> list[dict[str, Any]]:
    return [{"words": text.split(), **labels} for text in texts]


def load(tasks: Mapping[str, Any], *sources: Mapping[str, Any], strict: bool = False, **more: Any) -> Corpus:
    return load_corpus(Config.parse({"tasks": tasks, "sources": list(sources), **more}), strict=strict)


def words(corpus: Corpus, split: str = "train") -> list[str]:
    return [" ".join(example.text.words) for example in corpus.splits[split]]


# --- fusing ---


def test_two_sources_over_the_same_sentences_become_one_example_each(tmp_path: Path) -> None:
    def write(name: str, column: str, extra: str) -> str:
        path = tmp_path / name
        path.write_text(f"1\tAnna\t{column}\n2\tsat\tO\n\n1\t{extra}\tO\n\n", encoding="utf-8")
        return str(path)

    columns = {"format": "columns", "text_column": 1}
    first = {**columns, "train": write("a.tsv", "N", "yes"), "labels": {"pos": 2}, "name": "tags"}
    second = {**columns, "train": write("b.tsv", "B-PER", "no"), "labels": {"ner": 2}, "name": "entities"}
    corpus = load({"pos": POS, "ner": NER}, first, second)
    train, report = corpus.splits["train"], corpus.reports["train"]
    assert words(corpus) == ["Anna sat", "yes", "no"]
    assert train[0].labels == {"pos": ("N", "O"), "ner": ("B-PER", "O")}
    assert train[0].sources == ("tags", "entities")
    assert (report.examples, report.fused, report.labelled) == (3, 1, {"pos": 2, "ner": 2})
    assert report.read == {"tags": 2, "entities": 2}


def test_repeated_sentences_fuse_one_to_one(tmp_path: Path) -> None:
    first = source(tmp_path, "one", {"a": "a"}, train=rows("x", "x", "x", a="1"))
    second = source(tmp_path, "two", {"b": "b"}, train=rows("x", "x", b="2"))
    corpus = load({"a": TONE, "b": TONE}, first, second)
    assert [set(example.labels) for example in corpus.splits["train"]] == [{"a", "b"}, {"a", "b"}, {"a"}]


def test_contradictory_labels_stay_apart_and_are_counted(tmp_path: Path) -> None:
    first = source(tmp_path, "one", {"tone": "tone"}, train=[*rows("x", tone="up"), *rows("y", tone="up")])
    second = source(tmp_path, "two", {"tone": "tone"}, train=[*rows("x", tone="down"), *rows("y", tone="up")])
    corpus = load({"tone": TONE}, first, second)
    assert [(e.text.words[0], e.labels["tone"]) for e in corpus.splits["train"]] == [
        ("x", "up"),
        ("y", "up"),
        ("x", "down"),
    ]
    assert corpus.reports["train"].contradictory == 1
    assert corpus.reports["train"].fused == 1
    assert "1 inputs of train are labelled differently by two sources" in corpus.warnings()


def test_other_case_is_another_example(tmp_path: Path) -> None:
    first = source(tmp_path, "one", {"a": "a"}, train=rows("x", a="1"))
    second = source(tmp_path, "two", {"b": "b"}, train=rows("X", b="2"))
    assert load({"a": TONE, "b": TONE}, first, second).reports["train"].fused == 0


TEXTS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("01")), max_size=8)


@given(st.lists(TEXTS, min_size=1, max_size=3), st.booleans())
def test_fusing_loses_no_label_and_invents_none(sources: Sequence[list[tuple[str, str]]], shared: bool) -> None:
    made = [
        [
            Example(Text((text,)), {"task" if shared else f"task{number}": label}, sources=(str(number),))
            for text, label in texts
        ]
        for number, texts in enumerate(sources)
    ]
    fused = fuse(made)

    def readings(examples: Sequence[Example]) -> list[tuple[str, str, str, object]]:
        return sorted(
            (name, example.text.words[0], task, str(label))
            for example in examples
            for task, label in example.labels.items()
            for name in (example.sources if shared else (task[-1],))
        )

    assert readings(fused.examples) == readings([example for examples in made for example in examples])
    assert fused.fused == sum(len(example.sources) > 1 for example in fused.examples)
    assert all(len(set(example.sources)) == len(example.sources) for example in fused.examples)
    # A text stands as often as in the source that has it most, and more often only where labels disagree.
    if not shared:
        for text in "abc":
            counts = [sum(found == text for found, _ in texts) for texts in sources]
            assert sum(example.text.words == (text,) for example in fused.examples) == max(counts)


# --- leaks ---


def test_a_training_text_in_another_sources_test_is_withheld(tmp_path: Path) -> None:
    first = source(tmp_path, "one", {"a": "a"}, train=rows("The Cat", "the cat", "dog", a="1"))
    second = source(tmp_path, "two", {"b": "b"}, train=rows("x", b="2"), test=rows("the cat", b="2"))
    corpus = load({"a": TONE, "b": TONE}, first, second)
    assert words(corpus) == ["dog", "x"]
    assert corpus.reports["train"].withheld == {"one": 2}
    assert corpus.reports["train"].read == {"one": 3, "two": 1}
    assert "one: 2 training examples withheld, they are in another source's test" in corpus.warnings()
    left_in = load({"a": TONE, "b": TONE}, first, second, withhold_leaks=False)
    assert len(left_in.splits["train"]) == 4
    assert left_in.reports["train"].withheld == {}


def test_a_text_in_its_own_sources_test_is_reported_and_left_in(tmp_path: Path) -> None:
    first = source(tmp_path, "one", {"a": "a"}, train=rows("cat", "dog", a="1"), test=rows("cat", "Cat", a="1"))
    second = source(tmp_path, "two", {"b": "b"}, train=rows("cat", "x", b="2"), test=rows("cat", b="2"))
    corpus = load({"a": TONE, "b": TONE}, first, second)
    assert words(corpus) == ["cat", "dog", "x"]
    assert corpus.reports["train"].withheld == {}
    own = next(o for o in corpus.overlaps if o.source == o.held_out == "one")
    assert (own.texts, own.examples, own.recurring, own.verbatim, own.withheld) == (1, 1, 2, 1, 0)
    assert any(w.startswith("one: its own splits overlap, left in: 2 test examples") for w in corpus.warnings())


def test_another_sources_dev_does_not_withhold(tmp_path: Path) -> None:
    first = source(tmp_path, "one", {"a": "a"}, train=rows("cat", a="1"))
    second = source(tmp_path, "two", {"b": "b"}, train=rows("x", b="2"), dev=rows("cat", b="2"))
    assert words(load({"a": TONE, "b": TONE}, first, second)) == ["cat", "x"]


def test_a_task_left_without_examples_by_withholding_is_an_error(tmp_path: Path) -> None:
    first = source(tmp_path, "one", {"a": "a"}, train=rows("cat", a="1"))
    second = source(tmp_path, "two", {"b": "b"}, train=rows("x", b="2"), test=rows("cat", b="2"))
    with pytest.raises(ReadError, match=r"^tasks\.a: no "):
        load({"a": TONE, "b": TONE}, first, second)


SPLIT_TEXTS = st.fixed_dictionaries(
    {split: st.lists(st.sampled_from(["a", "A", "b", "c"]), max_size=5) for split in SPLITS}
)


@given(st.lists(SPLIT_TEXTS, min_size=1, max_size=3))
def test_withholding_leaves_no_foreign_test_text_and_takes_nothing_else(
    sources: Sequence[Mapping[str, list[str]]],
) -> None:
    made = {
        str(number): {split: [Example(Text((text,)), {"t": "x"}) for text in texts] for split, texts in splits.items()}
        for number, splits in enumerate(sources)
    }
    found = find_leakage(made, withhold=True)
    tests = {name: {folded(example) for example in splits["test"]} for name, splits in made.items()}
    for name, splits in made.items():
        for position, example in enumerate(splits["train"]):
            text = folded(example)
            foreign = any(text in texts for other, texts in tests.items() if other != name)
            expected = foreign and text not in tests[name]
            assert (position in found.withheld.get(name, set())) == expected
    assert not any(overlap.withheld for overlap in find_leakage(made, withhold=False).overlaps)


# --- a share of a task's training examples ---


def curve(folder: Path, fraction: float, *, seed: int = 13, other: bool = True) -> Corpus:
    """Two tasks over the same 40 texts, one of which is reduced; a third over a text of its own."""
    texts = [f"word{number % 37}" for number in range(40)]
    first = source(folder, "one", {"a": "a"}, train=rows(*texts, a="1"), dev=rows("x", a="1"))
    second = source(folder, "two", {"b": "b"}, train=rows(*texts[:20], "own", b="2"), dev=rows("y", b="2"))
    tasks = {"a": TONE | {"train_fraction": fraction}, **({"b": TONE} if other else {})}
    return load(tasks, first, *([second] if other else []), training={"seed": seed})


def kept(corpus: Corpus, task: str = "a") -> list[str]:
    return [" ".join(e.text.words) for e in corpus.splits["train"] if task in e.labels]


def test_a_reduced_task_keeps_nested_sets_of_texts(tmp_path: Path) -> None:
    sets = [kept(curve(tmp_path, fraction)) for fraction in (0.001, 0.04, 0.16, 0.5, 1)]
    assert [len(found) for found in sets] == [1, 2, 6, 20, 40]
    for small, large in itertools.pairwise(sets):
        assert not Counter(small) - Counter(large)


def test_neither_seed_nor_other_tasks_change_which_texts_a_task_keeps(tmp_path: Path) -> None:
    expected = kept(curve(tmp_path, 0.3))
    assert expected == kept(curve(tmp_path, 0.3, seed=99))
    assert expected == kept(curve(tmp_path, 0.3, other=False))
    assert len(expected) == 12


def test_what_train_fraction_leaves_out_is_counted_and_other_labels_stay(tmp_path: Path) -> None:
    corpus = curve(tmp_path, 0.3)
    report = corpus.reports["train"]
    assert report.reduced == {"a": 28}
    assert report.labelled == {"a": 12, "b": 21}
    assert len(kept(corpus, "b")) == 21
    assert all(example.labels for example in corpus.splits["train"])
    assert report.examples == len(corpus.splits["train"]) < 41
    assert len(corpus.splits["dev"]) == 2
    assert "a: train_fraction leaves 28 of its 40 training examples out" in corpus.warnings()
    assert corpus.summary()["splits"]["train"]["reduced"] == {"a": 28}
    assert curve(tmp_path, 1).reports["train"].reduced == {}


def test_a_label_that_only_left_out_examples_have_is_unseen(tmp_path: Path) -> None:
    """Kinds are fitted on what is trained on."""
    train = [*rows(*(f"w{number}" for number in range(9)), tone="up"), *rows("odd", tone="down")]
    made = source(tmp_path, "s", {"tone": "tone"}, train=train, dev=rows("d", tone="down"))
    found = [load({"tone": TONE | {"train_fraction": f}}, made) for f in (0.1, 1)]
    assert found[1].kinds["tone"].labels == ("down", "up")
    (only,) = found[0].splits["train"]
    assert found[0].kinds["tone"].labels == (only.labels["tone"],)


# --- labels ---


def test_repaired_tags_are_counted_and_strict_refuses_them(tmp_path: Path) -> None:
    good = {"words": ["a", "b"], "ner": ["B-PER", "I-PER"]}
    bad = {"words": ["a", "b", "c"], "ner": ["O", "I-PER", "I-LOC"]}
    made = source(tmp_path, "s", {"ner": "ner"}, train=[good, bad], dev=[good])
    corpus = load({"ner": NER}, made)
    assert corpus.splits["train"][1].labels["ner"] == ("O", "B-PER", "B-LOC")
    assert corpus.reports["train"].repaired == {"ner": 2}
    assert corpus.reports["dev"].repaired == {}
    assert "ner: 2 invalid span tags in train were repaired as conlleval reads them" in corpus.warnings()
    with pytest.raises(ReadError, match=rf"^{re.escape(str(tmp_path))}/s-train\.jsonl:2: task ner: 2 tags are invalid"):
        load({"ner": NER}, made, strict=True)


def test_labels_that_train_lacks_are_counted_and_kept(tmp_path: Path) -> None:
    made = source(
        tmp_path,
        "s",
        {"tone": "tone"},
        train=rows("a", tone="up"),
        dev=rows("b", "c", tone="odd"),
        test=rows("d", tone="up"),
    )
    corpus = load({"tone": TONE}, made)
    assert corpus.reports["dev"].unseen == {"tone": {"odd": 2}}
    assert corpus.reports["test"].unseen == {}
    assert len(corpus.splits["dev"]) == 2
    assert "tone: 1 labels of dev are not in train and count as errors: odd (2)" in corpus.warnings()


def test_records_without_a_label_are_counted(tmp_path: Path) -> None:
    made = source(tmp_path, "s", {"tone": "tone"}, train=[*rows("a", tone="up"), *rows("b", tone=None), *rows("c")])
    corpus = load({"tone": TONE}, made)
    assert words(corpus) == ["a"]
    assert corpus.reports["train"].unlabelled == {"s": 2}
    assert corpus.reports["train"].read == {"s": 3}
    assert "s: 2 records of train have no label and are left out" in corpus.warnings()


def test_a_record_may_lack_some_tasks(tmp_path: Path) -> None:
    train = [*rows("a", tone="up"), *rows("b", mood="x"), *rows("c", tone="up", mood="y")]
    corpus = load({"tone": TONE, "mood": TONE}, source(tmp_path, "s", {"tone": "tone", "mood": "mood"}, train=train))
    assert [sorted(example.labels) for example in corpus.splits["train"]] == [["tone"], ["mood"], ["mood", "tone"]]
    assert corpus.reports["train"].labelled == {"tone": 2, "mood": 2}


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ({"kind": "regression"}, {"y": "high"}, "expected a number, found 'high'"),
        (POS, {"y": ["N"]}, "1 tags for 2 words"),
        (NER, {"y": ["O", "PER"]}, "word 2, 'b': 'PER' is not a tag of iob2"),
        (TONE, {"y": ["up", "down"]}, "expected one label"),
        ({"kind": "pair_classification"}, {"y": "up"}, "takes two texts: set text_pair"),
        ({"kind": "extractive_qa"}, {"y": []}, "takes two texts: set text_pair"),
    ],
)
def test_a_label_that_does_not_fit_is_an_error_with_file_line_and_task(
    tmp_path: Path, task: Mapping[str, Any], row: Mapping[str, Any], message: str
) -> None:
    train = [{"words": ["a"], "other": "x"}, {"words": ["a", "b"], **row}]
    made = source(tmp_path, "s", {"it": "y", "other": "other"}, train=train)
    with pytest.raises(ReadError) as error:
        load({"it": task, "other": TONE}, made)
    assert str(error.value).startswith(f"{tmp_path}/s-train.jsonl:2: task it: ")
    assert message in str(error.value)


def test_a_kind_for_one_text_refuses_a_pair(tmp_path: Path) -> None:
    made = source(tmp_path, "s", {"tone": "tone"}, train=rows("a", tone="up", second="b"), text_pair="second")
    with pytest.raises(ReadError, match=r"s-train\.jsonl:1: task tone: text_classification takes one text"):
        load({"tone": TONE}, made)


def test_an_unknown_kind_names_the_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.tone\.kind: 'guess' is not one of"):
        load({"tone": {"kind": "guess"}}, source(tmp_path, "s", {"tone": "tone"}, train=rows("a", tone="up")))


def test_fitted_kinds_are_used_as_they_are(tmp_path: Path) -> None:
    made = source(tmp_path, "s", {"tone": "tone"}, train=rows("a", tone="up"), test=rows("b", tone="down"))
    config = Config.parse({"tasks": {"tone": TONE}, "sources": [made]})
    fitted = load_corpus(config).kinds
    other = source(tmp_path, "o", {"tone": "tone"}, train=rows("a", tone="down"), test=rows("b", tone="down"))
    corpus = load_corpus(Config.parse({"tasks": {"tone": TONE}, "sources": [other]}), fitted=fitted)
    assert corpus.kinds["tone"].labels == ("up",)
    assert corpus.reports["test"].unseen == {"tone": {"down": 1}}


def test_raw_texts_are_cut_by_their_own_language(tmp_path: Path) -> None:
    text = "Det er f.eks. godt"  # one word in Danish
    made = source(tmp_path, "s", {"tone": "tone"}, train=[{"words": text, "tone": "up"}], language="da")
    assert load({"tone": TONE}, made).splits["train"][0].text.words == ("Det", "er", "f.eks.", "godt")


def test_an_unknown_language_is_named_before_anything_is_read(tmp_path: Path) -> None:
    made = source(tmp_path, "s", {"tone": "tone"}, train=[{"words": ["a"], "tone": "up"}], language="klingon")
    path = tmp_path / "tasks.yaml"
    path.write_text(json.dumps({"tasks": {"tone": {"kind": "text_classification"}}, "sources": [made]}, indent=1))
    line = next(n for n, line in enumerate(path.read_text().splitlines(), 1) if "klingon" in line)
    with pytest.raises(
        ConfigError, match=rf"tasks.yaml:{line}: sources\[0\].language: spaCy has no word rules for 'kl"
    ):
        load_corpus(Config.load(path))
    made["language"] = "eng"  # spaCy knows this one by another name
    with pytest.raises(ConfigError, match=r"^language: spaCy has no word rules for 'elvish'"):
        load_corpus(
            Config.parse({"language": "elvish", "tasks": {"tone": {"kind": "text_classification"}}, "sources": [made]})
        )


def test_names_of_sources_are_short_and_unique() -> None:
    made = [
        {"format": "table", "train": "x/ewt/train.tsv", "text": "t", "labels": {"a": "l"}},
        {"format": "table", "train": "y/ewt/train.tsv", "text": "t", "labels": {"a": "l"}},
        {"format": "table", "name": "own", "train": "z/train.tsv", "text": "t", "labels": {"a": "l"}},
    ]
    assert source_names(Config.parse({"tasks": {"a": TONE}, "sources": made}).sources) == ["ewt", "ewt-2", "own"]


# --- the corpora that configs/ names ---


@cache
def loaded(name: str) -> Corpus:
    """The corpus of a configuration, its examples dropped, lest all of them stay in memory."""
    return replace(load_corpus(Config.load(ROOT / "configs" / f"{name}.yaml")), splits={})


@real
def test_ewt_and_uner_fuse_over_12500_training_sentences() -> None:
    corpus = loaded("reference")
    assert {split: report.fused for split, report in corpus.reports.items()} == {
        "train": 12531,
        "dev": 1998,
        "test": 2074,
    }
    assert corpus.reports["train"].labelled == {"pos": 12544, "ner": 12543, "sentiment": 6918}
    assert corpus.reports["train"].contradictory == 0
    read = {split: sum(report.read.values()) for split, report in corpus.reports.items()}
    for split, report in corpus.reports.items():
        assert report.examples == read[split] - report.fused - sum(report.withheld.values())


@real
def test_test_sentences_of_uner_that_recur_in_its_train_are_reported_not_removed() -> None:
    corpus = loaded("reference")
    own = next(
        o
        for o in corpus.overlaps
        if o.source == o.held_out == "uner_english_ewt" and (o.split, o.held_out_split) == ("train", "test")
    )
    # 94 sentences of test (47 distinct) stand in train word for word; 105 (53 distinct) when case is folded.
    assert (own.verbatim, own.recurring, own.texts, own.withheld) == (94, 105, 53, 0)
    assert corpus.reports["train"].withheld == {"sst2": 2}  # e.g. of EWT's test


@real
def test_invalid_danish_tags_are_repaired_and_counted() -> None:
    corpus = loaded("danish_ner")
    assert {split: report.repaired for split, report in corpus.reports.items()} == {
        "train": {"danish_ner": 6},
        "dev": {},
        "test": {"danish_ner": 1},
    }
    config = Config.load(ROOT / "configs" / "danish_ner.yaml")
    with pytest.raises(ReadError, match=r"da_ddt-ud-train\.iob2:\d+: task danish_ner: \d+ tags are invalid in iob2"):
        load_corpus(config, strict=True)


@real
def test_what_sst2_trains_on_and_sst5_tests_on_is_withheld() -> None:
    def made(name: str, task: str, **more: Any) -> dict[str, Any]:
        files = {split: str(DATA / name / f"{split}.tsv") for split in ("train", "test")}
        labels = {task: "label"}
        return {
            "format": "table",
            "name": name,
            **files,
            "text": "sentence",
            "pretokenized": True,
            "labels": labels,
            **more,
        }

    tasks = {"two": TONE, "five": TONE}
    # Every sentence of sst2 is in sst5 in the same split; two of sst2's train are in both tests, three times.
    corpus = load(tasks, made("sst2", "two", test=None), made("sst5", "five"))
    assert corpus.reports["train"].withheld == {"sst2": 3}
    assert corpus.reports["train"].fused == 6917
    # With the splits of one exchanged nearly all of it is a leak: all but what is in its own test, too.
    exchanged = {"train": str(DATA / "sst5" / "test.tsv"), "test": str(DATA / "sst5" / "train.tsv")}
    corpus = load(tasks, made("sst2", "two"), made("sst5", "five", **exchanged))
    assert corpus.reports["train"].withheld == {"sst2": 6917, "sst5": 1819}
    assert corpus.reports["train"].labelled == {"two": 3, "five": 391}


# Labelled examples of each task in train, dev and test, as each corpus's SOURCE.md counts them.
COUNTS: dict[str, dict[str, tuple[int, int, int]]] = {
    "reference": {"pos": (12544, 2001, 2077), "ner": (12543, 2001, 2077), "sentiment": (6918, 872, 1821)},
    "banking77": {"banking": (9003, 1000, 3080)},
    "clinc150": {"clinc": (15100, 3100, 5500)},
    "atis": dict.fromkeys(("atis_slots", "atis_intents", "atis_slot_types"), (4478, 500, 893)),
    "snips": dict.fromkeys(("snips_slots", "snips_intent"), (13084, 700, 700)),
    "rte": {"rte": (2490, 277, 0)},
    "sick": dict.fromkeys(("sick_entailment", "sick_relatedness"), (4500, 500, 4927)),
    "stsb": {"stsb": (5749, 1500, 1379)},
    "emotion": {"emotion": (3257, 374, 1421)},
    "irony": {"irony": (2862, 955, 784)},
    "squad": {"qa": (16842, 899, 632)},
    "afrikaans_pos": {"afrikaans_pos": (1315, 194, 425)},
    "danish_ner": {"danish_ner": (4383, 564, 565)},
    "wnut17": {"wnut": (3394, 1009, 644)},
    "btc": {"btc": (6338, 1001, 0)},
}


@real
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "squad" else n for n in COUNTS])
def test_every_corpus_is_readable_by_configuration_alone(name: str) -> None:
    reports = loaded(name).reports
    assert {task: tuple(reports[split].labelled.get(task, 0) for split in SPLITS) for task in COUNTS[name]} == COUNTS[
        name
    ]
    assert not any(report.unlabelled for report in reports.values())


@real
@pytest.mark.slow
def test_everything_is_all_of_the_other_configurations() -> None:
    config = Config.load(ROOT / "configs" / "everything.yaml")
    parts = [Config.load(ROOT / "configs" / f"{name}.yaml") for name in COUNTS]
    # Static weights and shares of the data belong to a mix, not to a task.
    own = {"weight": 1.0, "train_fraction": 1.0}
    declared = {task: one.model_copy(update=own) for part in parts for task, one in part.tasks.items()}
    assert {task: one.model_copy(update=own) for task, one in config.tasks.items()} == declared
    sources = [s.model_copy(update={"language": None}) for s in config.sources]
    assert sources == [s for part in parts for s in part.sources]
    reports = load_corpus(config).reports
    assert reports["train"].reduced.keys() == {"qa"}
    withheld = sum(reports["train"].withheld.values())
    wanted = {task: counts for part in COUNTS.values() for task, counts in part.items()}
    for task, counts in wanted.items():
        most = round(counts[0] * config.tasks[task].train_fraction)
        assert most - withheld <= reports["train"].labelled[task] <= most
        assert (reports["dev"].labelled.get(task, 0), reports["test"].labelled.get(task, 0)) == counts[1:]


def test_rare_mistakes_are_named_not_met_later_as_tracebacks(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", [{"t": "a b", "y": [], "z": 1.5}, {"t": "c", "y": [], "z": 2}])
    dev = write_jsonl(tmp_path / "dev.jsonl", [{"t": "a b", "p": "q", "z": 1.0}])
    source = {"format": "jsonl", "train": train, "text": "t"}
    with pytest.raises(ReadError, match=r"tasks\.m: no training example has any class"):
        load_corpus(
            Config.parse(
                {"tasks": {"m": {"kind": "multilabel_classification"}}, "sources": [source | {"labels": {"m": "y"}}]}
            )
        )
    pairs = {"format": "jsonl", "dev": dev, "text": "t", "text_pair": "p", "labels": {"r": "z"}}
    sources = [source | {"labels": {"r": "z"}}, pairs]
    with pytest.raises(ReadError, match=r"dev\.jsonl:1: task r: a pair, but training has single texts"):
        load_corpus(Config.parse({"tasks": {"r": {"kind": "regression"}}, "sources": sources}))


def test_a_label_key_that_a_split_lacks_altogether_is_said(tmp_path: Path) -> None:
    source = {
        "format": "jsonl",
        "train": write_jsonl(tmp_path / "train.jsonl", [{"t": "a", "y": "1"}]),
        "dev": write_jsonl(tmp_path / "dev.jsonl", [{"t": "b", "label": "1"}, {"t": "c", "label": "2"}]),
        "text": "t",
        "name": "s",
        "labels": {"c": "y"},
    }
    corpus = load_corpus(Config.parse({"tasks": {"c": {"kind": "text_classification"}}, "sources": [source]}))
    assert any("no record of dev has a label for c" in warning for warning in corpus.warnings())


def test_labels_are_renamed_where_a_source_calls_them_otherwise(tmp_path: Path) -> None:
    source = {
        "format": "jsonl",
        "train": write_jsonl(
            tmp_path / "train.jsonl", [{"t": "a", "y": 0}, {"t": "b", "y": "1"}, {"t": "c", "y": "up"}]
        ),
        "text": "t",
        "labels": {"c": {"column": "y", "rename": {0: "down", "1": "up"}}},
    }
    corpus = load_corpus(Config.parse({"tasks": {"c": {"kind": "text_classification"}}, "sources": [source]}))
    assert [example.labels["c"] for example in corpus.splits["train"]] == ["down", "up", "up"]
    assert not corpus.warnings()
    source["labels"] = {"c": {"column": "y", "rename": {"0": "down", "1 ": "up"}}}
    corpus = load_corpus(
        Config.parse({"tasks": {"c": {"kind": "text_classification"}}, "sources": [source | {"name": "s"}]})
    )
    assert corpus.warnings() == ["s: labels.c.rename: no label is called '1 '"]
