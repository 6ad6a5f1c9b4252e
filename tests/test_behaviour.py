"""Behavioural checks: what they do to texts, what they expect, and checks from outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import NOW, Trained
from fakes import ALL_TASKS
from palmette.answering import Answerer
from palmette.config import TaskConfig
from palmette.corpus import load_corpus
from palmette.errors import ConfigError
from palmette.kinds import AnyKind, Kind, find_kind
from palmette.kinds.sequence_labeling import SequenceLabeling
from palmette.operate.behaviour import CHECKS, Material, find_checks
from palmette.operate.behaviour.base import Edit, Moved, replaced
from palmette.operate.behaviour.measure import failures, make_cases
from palmette.operate.behaviour.own import names_of, read_own
from palmette.operate.behaviour.vocabulary import MEANINGS
from palmette.operate.gate import GateSettings, gate
from palmette.predictor import AnyPredictor
from palmette.types import Answer, Example, Prediction, Text

BY_NAME = {check.name: check for check in CHECKS}
EDITS = [check for check in CHECKS if isinstance(check, Edit)]
WORDS = ["Anna", "does", "n't", "like", "the", "big", "movie", "which", "was", "wonderful", "."]


def kind_of(name: str, task: str, labels: Sequence[str] = (), **config: Any) -> AnyKind:
    state = {
        "labels": list(labels),
        "paired": name == "extractive_qa",
        "unanswerable": False,
        "mean": 0,
        "deviation": 1,
    }
    return find_kind(name)(task, TaskConfig(kind=name, **config), state)


TONE = kind_of("text_classification", "tone", ["negative", "positive"])
NER = kind_of("sequence_labeling", "ner", ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"], scheme="iob2")
POS = kind_of("sequence_labeling", "pos", ["ADJ", "NOUN", "PUNCT", "VERB"])


@dataclass
class Rules(AnyPredictor):
    """A model of a few rules: what it sees is known."""

    answers: Any

    def __init__(self, kinds: dict[str, AnyKind], answers: Any) -> None:
        super().__init__(kinds, lambda raw: Text(tuple(raw.split())))
        self.answers = answers

    def _run(self, examples: Sequence[Example], wanted: Sequence[Sequence[str]]) -> list[dict[str, Prediction]]:
        return [
            {task: self.answers(task, example.text.words) for task in tasks}
            for example, tasks in zip(examples, wanted, strict=True)
        ]


def sentiment(words: Sequence[str], *, negates: bool) -> Prediction:
    folded = [word.lower() for word in words]
    good = bool(
        {"wonderful", "excellent", "great", "brilliant", "delightful", "superb", "beautiful", "charming"} & set(folded)
    )
    if negates and {"not", "n't"} & set(folded):
        good = not good
    return Prediction("positive" if good else "negative", 0.9)


def entities(words: Sequence[str], *, cased: bool) -> Prediction:
    tags = []
    for number, word in enumerate(words):
        name = word[:1].isupper() and not word.isupper() if cased else word.lower() in {"anna", "paris"}
        tags.append(("B-PER" if number == 0 else "B-LOC") if name else "O")
    return Prediction(tuple(tags), (0.9,) * len(tags))


def model(kinds: dict[str, AnyKind], *, negates: bool = True, cased: bool = True) -> Answerer:
    def answer(task: str, words: Sequence[str]) -> Prediction:
        return entities(words, cased=cased) if task == "ner" else sentiment(words, negates=negates)

    return Answerer(kinds, Rules(kinds, answer))


def example(text: str, **labels: Any) -> Example:
    return Example(Text(tuple(text.split())), labels)


def rates(which: Answerer, examples: Sequence[Example], checks: Any = CHECKS) -> dict[tuple[str, str], tuple[int, int]]:
    """{(task, check): (failures, cases)}."""
    names = names_of(read_nothing(), which.kinds, MEANINGS)
    asked = make_cases(checks, which.kinds, examples, names, most=50, seed=1)
    found = {}
    for group, judged in zip(asked, failures(which, asked), strict=True):
        verdicts = [failed for failed, _ in judged if failed is not None]
        found[group.task, group.check.name] = (sum(verdicts), len(verdicts))
    return found


def read_nothing() -> Any:
    return find_checks()[0]


@given(st.lists(st.sampled_from([*WORDS, "a", "I", "is", "it", "!", "Zürich", "ok"]), max_size=12), st.integers(0, 99))
def test_every_edit_says_where_each_word_comes_from(words: list[str], seed: int) -> None:
    for check in EDITS:
        moved = check.edit(tuple(words), np.random.default_rng(seed))
        if moved is None:
            continue
        assert moved.words != tuple(words)
        assert len(moved.words) == len(moved.alignment)
        places = [place for place in moved.alignment if place is not None]
        assert places == sorted(places)
        assert not places or 0 <= places[0] <= places[-1] < len(words)
        kept = [n for n, place in enumerate(moved.alignment) if place is not None and words[place] == moved.words[n]]
        assert len(kept) >= len(words) - 1 or check.name in {"lower_case", "upper_case"}


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("lower_case", "Anna sat .", "anna sat ."),
        ("upper_case", "Anna sat .", "ANNA SAT ."),
        ("punctuation", "Anna sat .", "Anna sat"),
        ("punctuation", "Anna sat", "Anna sat ."),
        ("punctuation", "Anna sat ?", None),
        ("contraction", "She did not go", "She did n't go"),
        ("contraction", "They 're here", "They are here"),
        ("contraction", "Anna 's cat", None),
        ("synonym", "a big dog", "a large dog"),
        ("synonym", "a dog", None),
        ("typo", "a cat sat", None),
    ],
)
def test_edits(name: str, text: str, wanted: str | None) -> None:
    moved = BY_NAME[name].edit(tuple(text.split()), np.random.default_rng(1))  # type: ignore[attr-defined]
    assert (None if moved is None else " ".join(moved.words)) == wanted


def test_a_typo_leaves_the_ends_of_a_word() -> None:
    for seed in range(20):
        moved = BY_NAME["typo"].edit(("wonderful",), np.random.default_rng(seed))  # type: ignore[attr-defined]
        (word,) = moved.words
        assert (word[0], word[-1], sorted(word)) == ("w", "l", sorted("wonderful"))
        assert word != "wonderful"


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("B-PER I-PER O", "B-PER I-PER O O", True),  # the added word is nothing
        ("B-PER I-PER O", "B-PER I-PER O B-LOC", True),  # what an added word is, the original does not say
        ("B-PER I-PER O", "B-PER O O O", False),
        ("B-PER I-PER O", "B-LOC I-LOC O O", False),
        ("O O O", "O O B-PER O", False),
    ],
)
def test_spans_are_carried_through_an_edit(before: str, after: str, same: bool) -> None:
    moved = replaced(("Anna", "Smith", "sat"), 3, 0, ["today"], "")
    assert NER.agrees(tuple(before.split()), tuple(after.split()), moved.alignment) is same


def test_a_name_of_another_length_is_still_one_span() -> None:
    longer = replaced(("Anna", "sat"), 0, 1, ["Mary", "Ann"], "")
    assert NER.agrees(("B-PER", "O"), ("B-PER", "I-PER", "O"), longer.alignment)
    assert not NER.agrees(("B-PER", "O"), ("B-PER", "B-PER", "O"), longer.alignment)
    shorter = replaced(("Mary", "Ann", "sat"), 0, 2, ["Anna"], "")
    assert NER.agrees(("B-PER", "I-PER", "O"), ("B-PER", "O"), shorter.alignment)
    assert not NER.agrees(("B-PER", "I-PER", "O"), ("O", "O"), shorter.alignment)


def test_tags_are_compared_at_the_words_that_both_have() -> None:
    moved = replaced(("the", "cat"), 1, 0, ["big"], "")
    assert POS.agrees(("NOUN", "VERB"), ("NOUN", "ADJ", "VERB"), moved.alignment)
    assert not POS.agrees(("NOUN", "VERB"), ("NOUN", "ADJ", "NOUN"), moved.alignment)
    assert not POS.agrees(("NOUN",), ("NOUN", "VERB"), ())  # other words where the same were due


def test_other_kinds_say_what_is_the_same() -> None:
    assert TONE.agrees("positive", "positive", ())
    assert not TONE.agrees("positive", "negative", (0,))
    number = kind_of("regression", "likeness")
    assert number.agrees(1.0, 1.2, ())
    assert not number.agrees(1.0, 1.3, ())
    answer = kind_of("extractive_qa", "answer")
    assert answer.agrees((Answer(0, "The Paris"),), (Answer(30, "paris"),), ())
    assert not answer.agrees((Answer(0, "Paris"),), (), ())


def test_a_kind_that_does_not_say_is_not_judged() -> None:
    class Silent(SequenceLabeling):
        def agrees(self, before: Any, after: Any, alignment: Sequence[int | None]) -> Any:
            return Kind.agrees(self, before, after, alignment)

    silent = Silent("pos", POS.config, POS.state)
    assert silent.agrees(("NOUN",), ("NOUN",), ()) is None
    assert silent.agrees("one", "one", ()) is True

    def tags(_: str, words: Sequence[str]) -> Prediction:
        return Prediction(("NOUN",) * len(words), (0.9,) * len(words))

    kinds: dict[str, AnyKind] = {"pos": silent}
    found = rates(Answerer(kinds, Rules(kinds, tags)), [example("Anna sat", pos=("NOUN", "NOUN"))])
    assert found["pos", "punctuation"] == (0, 0)


def test_a_model_that_does_not_negate_fails_negation_and_one_that_does_not_fail_it() -> None:
    examples = [example(f"it was {word}", tone="positive") for word in ("wonderful", "great", "superb")]
    good, bad = (rates(model({"tone": TONE}, negates=negates), examples) for negates in (True, False))
    for check in ("negation", "negated_polarity"):
        assert good["tone", check][0] == 0
        assert bad["tone", check][0] == bad["tone", check][1] > 0
    assert bad["tone", "polarity"][0] == 0
    assert good["tone", "neutral_sentence"] == (0, 3)


def test_a_model_that_lives_by_capitals_fails_casing_only() -> None:
    examples = [example("Anna sat in Paris .", ner=("B-PER", "O", "O", "B-LOC", "O"))]
    found = rates(model({"ner": NER}), examples)
    assert found["ner", "lower_case"] == found["ner", "upper_case"] == (1, 1)
    for check in ("punctuation", "white_space", "neutral_sentence"):
        assert found["ner", check] == (0, 1)
    assert rates(model({"ner": NER}, cased=False), examples)["ner", "lower_case"] == (0, 1)


def test_names_are_swapped_for_names_of_their_type() -> None:
    examples = [
        example("Anna sat in Paris", ner=("B-PER", "O", "O", "B-LOC")),
        example("Tom Smith left", ner=("B-PER", "I-PER", "O")),
        example("Oslo is cold", ner=("B-LOC", "O", "O")),
    ]
    (asked,) = make_cases([BY_NAME["name_swap"]], {"ner": NER}, examples, {}, most=9, seed=1)
    people, places = {"Anna", "Tom Smith"}, {"Paris", "Oslo"}
    assert len(asked.cases) == 3
    for case in asked.cases:
        old, new = case.note.split(" -> ")
        assert old != new
        assert {old, new} in (people, places)


def test_which_class_is_positive_has_to_be_known() -> None:
    numbered = kind_of("text_classification", "tone", ["0", "1"])
    material = Material([], names_of(read_nothing(), {"tone": numbered}, MEANINGS)["tone"])
    assert not BY_NAME["negation"].applies(numbered, material)
    assert BY_NAME["negation"].applies(numbered, Material([], {"positive": "1", "negative": "0"}))


FILE = """
names: {tone: {positive: positive}}
leave_out: [upper_case]
checks:
  - name: praise
    cases:
      - {text: a great film, label: positive}
      - {text: a great dull film, label: negative}
  - name: fans
    tasks: [ner]
    template: "{who} lives in {where} ."
    fill: {who: [Anna, Tom Smith], where: [Paris]}
    spans: {who: PER, where: LOC}
  - name: more praise
    tasks: [tone]
    label: positive
    replace: {great: [very great]}
    expect: more
  - {name: regards, tasks: [tone], append: "best regards ."}
"""


def test_a_file_of_own_checks(tmp_path: Path) -> None:
    path = tmp_path / "checks.yaml"
    path.write_text(FILE)
    _, checks = find_checks(path)
    names = [check.name for check in checks]
    assert "upper_case" not in names
    assert names[-4:] == ["praise", "fans", "more praise", "regards"]
    examples = [example("a great film", tone="positive"), example("an awful film", tone="negative")]
    found = rates(model({"tone": TONE, "ner": NER}), examples, checks[-4:])
    assert found == {
        ("tone", "praise"): (1, 2),
        ("tone", "more praise"): (0, 1),
        ("tone", "regards"): (0, 2),
        ("ner", "fans"): (1, 2),  # of Tom Smith it finds two names
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("checks: [{name: x}]", r"checks\.0: give one of cases, template, or an edit"),
        ("checks: [{name: x, template: '{a}', fill: {b: [c]}, label: d}]", "the template's places are"),
        ("checks: [{name: typo, append: x}]", "check 'typo': there are 2 of that name"),
        ("leave_out: [nothing]", "leave_out: no check 'nothing'; there are typo"),
        ("cheks: []", "cheks: Extra inputs are not permitted"),
        ("checks: [", "not YAML"),
    ],
)
def test_a_file_that_is_none(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "checks.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        find_checks(tmp_path / "checks.yaml")


def test_labels_that_are_none_of_the_tasks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "checks.yaml"
    path.write_text("names: {tone: {positive: good}}")
    with pytest.raises(ConfigError, match=r"names\.tone\.positive: 'good' is not a label of the task"):
        names_of(read_own(path)[0], {"tone": TONE}, MEANINGS)
    path.write_text("checks: [{name: x, tasks: [ner], cases: [{text: Anna sat, label: [O]}]}]")
    with pytest.raises(ConfigError, match=r"check x, case 1: task ner: 1 tags for 2 words"):
        rates(model({"ner": NER}), [], read_own(path)[1])


# What another package brings.
MODULE = '''
from palmette.operate.behaviour import Case, Check, Moved


class Shouting(Check):
    """Exclamation marks."""

    name = "shouting"
    expectation = "invariance"
    description = "three exclamation marks; the answer must stay"

    def cases(self, kind, material, rng):
        for example in material.examples:
            words = example.text.words
            yield Moved((*words, "!!!"), (*range(len(words)), None), "+ !!!").case(example)


NOT_A_CHECK = object()
'''


def install(folder: Path, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site = folder / "site"
    information = site / "palmette_shouting-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "palmette_shouting.py").write_text(MODULE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: palmette-shouting\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[palmette.checks]\nshouting = palmette_shouting:{point}\n")
    monkeypatch.syspath_prepend(site)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    sys.modules.pop("palmette_shouting", None)


def test_a_check_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "Shouting", monkeypatch)
    _, checks = find_checks()
    assert checks[-1].name == "shouting"
    found = rates(model({"ner": NER}), [example("Anna sat", ner=("B-PER", "O"))], checks[-1:])
    assert found == {("ner", "shouting"): (0, 1)}


def test_an_entry_point_that_is_no_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "NOT_A_CHECK", monkeypatch)
    with pytest.raises(ConfigError, match="NOT_A_CHECK is no palmette"):
        find_checks()


def test_the_same_cases_for_both_whatever_other_checks_there_are(trained: Trained) -> None:
    kinds = trained.loop.kinds
    examples = load_corpus(trained.config, fitted=kinds).splits["test"]
    one, two = (make_cases(checks, kinds, list(order), {}, most=5, seed=1) for checks, order in (
        (CHECKS, examples), (CHECKS[::-1], reversed(examples))
    ))  # fmt: skip
    by_name = {(group.task, group.check.name): group.cases for group in two}
    assert {(group.task, group.check.name): group.cases for group in one} == by_name
    assert {task for task, _ in by_name} == set(ALL_TASKS)


def test_the_gate_fails_on_behaviour_alone(trained: Trained, tmp_path: Path) -> None:
    """Both answer the data alike; in capitals, which the data have none of, the new one falls apart."""
    from palmette.operate.gate.sides import Side

    kinds = {"tone": TONE}
    texts = [example(f"it was {word} number{n}", tone="positive") for n in range(40) for word in ("great", "superb")]

    def blind(_: str, words: Sequence[str]) -> Prediction:
        return sentiment([word for word in words if not word.isupper()], negates=True)

    sides = [
        Side(
            tmp_path,
            Answerer(kinds, Rules(kinds, answers)),
            {"form": "run", "precision": "fp32", "digest": "0", "bytes": 1},
            None,
        )
        for answers in (lambda _, words: sentiment(words, negates=True), blind)
    ]
    settings = GateSettings(margin=5, latency_budget=1e6, latency_texts=2)
    found = gate(sides[0], sides[1], now=NOW, settings=settings, examples=texts)
    assert found["tasks"]["tone"]["verdict"] == "passed"
    assert [entry["check"] for entry in found["behaviour"] if entry["verdict"] == "failed"] == ["upper_case"]
    assert found["verdict"] == "failed"
    (entry,) = [entry for entry in found["behaviour"] if entry["check"] == "upper_case"]
    assert (entry["old"], entry["new"], entry["only_new"]) == (0.0, 1.0, 80)
    assert all(case["text"].isupper() and not case["old_too"] for case in entry["failures"])
    assert isinstance(Moved(("a",), (0,)).case(texts[0]).after, Example)
