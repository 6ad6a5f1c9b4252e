"""Each detector on cases whose fault is known, their ranking, the page, and the command on a tiny run."""

from __future__ import annotations

import ast
import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fakes import tiny_config, tiny_encoder
from palmette.cli import main
from palmette.config import Config, TaskConfig
from palmette.corpus import Corpus
from palmette.kinds import AnyKind
from palmette.kinds.sequence_labeling import SequenceLabeling
from palmette.kinds.text_classification import TextClassification
from palmette.operate.diagnose import (
    fitting,
    label_noise,
    label_set,
    little_data,
    miscalibration,
    page,
    quantisation,
    shift,
    slices,
    tokenisation,
    transfer,
    truncation,
    unseen_words,
)
from palmette.operate.diagnose.case import Case, NotLookedAtError, Subject
from palmette.operate.diagnose.diagnose import explain_away
from palmette.operate.diagnose.estimates import Gain, from_error
from palmette.operate.diagnose.finding import Finding, rank
from palmette.operate.diagnose.sheet import Sheet
from palmette.types import Example, Prediction, Text
from palmette.words import find_words

LABELS = ("a", "b", "c")
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def kind(labels: Sequence[str] = LABELS) -> AnyKind:
    return TextClassification("t", TaskConfig(kind="text_classification"), {"labels": list(labels)})


def sheet(
    split: str,
    gold: Sequence[int] | NDArray[np.int64],
    *,
    seed: int,
    wrong: Sequence[bool] | NDArray[np.bool_] | None = None,
    words: Sequence[Sequence[str]] | None = None,
    meta: Sequence[Mapping[str, str]] | None = None,
    truth: Sequence[int] | NDArray[np.int64] | None = None,
    moved: float = 0.0,
    confidence: float = 0.8,
    of: AnyKind | None = None,
) -> Sheet:
    """Texts whose vectors show their `truth` (their label, by default); the model errs where `wrong`."""
    task = of or kind()
    rng = np.random.default_rng(seed)
    labels = np.asarray(gold, dtype=np.int64)
    count, size = len(labels), len(task.labels)
    vectors = 2.0 * np.eye(size)[np.asarray(labels if truth is None else truth) % size]
    vectors = np.hstack([vectors, np.zeros((count, 3))]) + rng.normal(0, 0.5, (count, size + 3))
    vectors[:, size] += moved
    found = np.where(np.zeros(count, bool) if wrong is None else np.asarray(wrong), (labels + 1) % size, labels)
    probabilities = np.full((count, size), (1 - confidence) / (size - 1))
    probabilities[np.arange(count), found] = confidence
    texts = words or [["text", split, str(n)] for n in range(count)]
    examples = [
        Example(Text(tuple(ws)), {"t": task.labels[label]}, meta=meta[n] if meta else {})
        for n, (ws, label) in enumerate(zip(texts, labels, strict=True))
    ]
    answers = [Prediction(task.labels[n], confidence) for n in found]
    return Sheet(task, split, examples, answers, probabilities, labels, np.arange(count), vectors, vectors, vectors)


def balanced(count: int, labels: int = 3) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) % labels


def errors(count: int, share: float, seed: int = 5) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(count) < share


def case(*sheets: Sheet, predictor: Any = None, **about: Any) -> Case:
    task = sheets[0].kind
    described = {
        "tasks": {name: {"kind": "text_classification"} for name in ("t", *about.pop("others", ()))},
        "sources": [{"format": "jsonl", "train": "x", "text": "x", "labels": {"t": "t"}}],
    }
    described["sources"][0]["labels"] |= {name: name for name in described["tasks"]}  # type: ignore[index]
    splits: dict[str, list[Example]] = {split: [] for split in ("train", "dev", "test")}
    splits |= {s.split: list(s.examples) for s in sheets}
    kinds = dict.fromkeys(described["tasks"], task)
    subject = Subject(
        name="run",
        config=Config.parse(described),
        corpus=Corpus(splits, kinds, {}, [], {}, []),
        kinds=kinds,
        predictor=predictor,
        model=None,
        history=about.get("history", []),
        parity=about.get("parity", {}),
        study=about.get("study"),
        seed=1,
        most=1000,
    )
    return Case(subject, task, {s.split: s for s in sheets})


class Reader:
    """Answers "a" to a text with a word of its list, "b" to others."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.encoder = tiny_encoder()
        self.find_words = partial(find_words, language="en")

    def answer(self, examples: Sequence[Example], _: Sequence[str]) -> list[dict[str, Prediction]]:
        return [{"t": Prediction("a" if self.known & set(e.text.words) else "b", 0.9)} for e in examples]


class TestLabelNoise:
    def test_wrong_labels_of_train_are_found_and_counted(self) -> None:
        truth = balanced(240)
        flipped = errors(240, 0.3)
        train = sheet("train", np.where(flipped, (truth + 1) % 3, truth), truth=truth, seed=0)
        (found,) = label_noise.detect(case(train, sheet("dev", balanced(150), seed=1, wrong=errors(150, 0.3))))
        assert found.telling
        assert found.numbers["excess_points"] == pytest.approx(100 * flipped.mean(), abs=10)
        assert found.gain.low > 1
        assert "text train" in found.examples[0]

    def test_clean_labels_gain_nothing(self) -> None:
        train = sheet("train", balanced(240), seed=0)
        (found,) = label_noise.detect(case(train, sheet("dev", balanced(150), seed=1)))
        assert not found.telling
        assert found.gain.points < 1

    def test_labels_of_which_no_head_learns_anything_are_contradicted_by_dev(self) -> None:
        rng = np.random.default_rng(2)
        truth = balanced(300)
        train = sheet("train", rng.permutation(truth), truth=truth, seed=0)
        dev = sheet("dev", balanced(150), seed=1, wrong=errors(150, 0.6))
        test = sheet("test", balanced(150), seed=2, wrong=errors(150, 0.6))
        (found,) = label_noise.detect(case(train, dev, test))
        assert found.telling
        assert found.numbers["excess_points"] > 40
        elsewhere = sheet("dev", balanced(150), seed=1, wrong=errors(150, 0.6), moved=3.0)  # is no judge of train
        (found,) = label_noise.detect(case(train, elsewhere, test))
        assert found.numbers["excess_points"] < 40

    def test_wrong_tags_are_counted_among_the_words_that_spans_are_made_of(self) -> None:
        spans = SequenceLabeling(
            "t", TaskConfig(kind="sequence_labeling", scheme="iob2"), {"labels": ["B-X", "I-X", "O"]}
        )
        gold = np.where(np.arange(600) % 10 == 0, 0, 2)
        flipped = (gold == 0) & errors(600, 0.5)

        def tagged(split: str, labels: NDArray[np.int64], seed: int) -> Sheet:
            found = sheet(split, labels, truth=gold, seed=seed, of=spans)
            examples = [
                replace(e, text=Text(("w",)), labels={"t": (spans.labels[n],)})
                for e, n in zip(found.examples, labels, strict=True)
            ]
            return replace(found, examples=examples, answers=[Prediction(("O",), (0.9,))] * 600)

        (found,) = label_noise.detect(case(tagged("train", np.where(flipped, 2, gold), 0), tagged("dev", gold, 1)))
        assert found.gain.points > 3 * 0.3 * found.numbers["excess_points"]

    def test_labels_that_are_as_wrong_in_dev_are_no_excess(self) -> None:
        """Where nothing tells labels apart, cleanlab suspects many; dev says that this is the task, not train."""
        rng = np.random.default_rng(3)
        train, dev = (
            sheet(s, balanced(240), truth=rng.integers(0, 3, 240), seed=n) for n, s in enumerate(("train", "dev"))
        )
        (found,) = label_noise.detect(case(train, dev))
        assert not found.telling

    def test_kinds_without_classes_are_not_looked_at(self) -> None:
        train = replace(sheet("train", balanced(30), seed=0), gold=np.zeros(0, dtype=np.int64))
        with pytest.raises(NotLookedAtError, match="classes"):
            label_noise.detect(case(train))


class TestShift:
    def test_texts_from_elsewhere_with_worse_answers(self) -> None:
        dev = sheet("dev", balanced(200), seed=1, wrong=errors(200, 0.1))
        test = sheet("test", balanced(200), seed=2, wrong=errors(200, 0.35), moved=2.0)
        found = shift.texts(case(sheet("train", balanced(200), seed=0), dev, test))[0]
        assert found.telling
        assert found.numbers["auc"] > 0.9
        assert found.gain.points == pytest.approx(25, abs=8)
        assert found.p < 0.001

    def test_the_same_texts_are_not_told_apart(self) -> None:
        sheets = [sheet(split, balanced(200), seed=n) for n, split in enumerate(("train", "dev", "test"))]
        found = shift.texts(case(*sheets))[0]
        assert not found.telling
        assert 0.4 < found.numbers["auc"] < 0.6

    def test_other_shares_of_labels(self) -> None:
        train = sheet("train", balanced(300), seed=0)
        test = sheet(
            "test", np.r_[np.zeros(270, int), np.ones(30, int)], seed=1, wrong=errors(300, 0.3), confidence=0.5
        )
        (found,) = shift.labels(case(train, test))
        assert found.telling
        assert found.gain.low > 1
        assert "a: 33.3% of train, 90.0% of test" in found.evidence


class TestLabels:
    def test_a_label_that_train_hardly_has(self) -> None:
        train = sheet("train", np.r_[balanced(200, 2), np.full(4, 2)], seed=0)
        gold = balanced(180)
        (found,) = label_set.rare(case(train, sheet("test", gold, seed=1, wrong=gold == 2)))
        assert found.telling
        assert found.numbers["labels"] == ["c"]
        assert found.gain.points == pytest.approx(100 / 3, abs=1)

    def test_labels_that_train_has_enough_of_are_not_rare(self) -> None:
        train = sheet("train", balanced(240), seed=0)
        assert label_set.rare(case(train, sheet("test", balanced(90), seed=1, wrong=errors(90, 0.3)))) == []

    @pytest.mark.parametrize("same", [True, False])
    def test_two_labels_for_the_same_thing(self, same: bool) -> None:
        def drawn(split: str, seed: int) -> Sheet:
            gold = balanced(300)
            truth = np.where(gold == 2, 1, gold) if same else gold  # b and c look alike
            mixed = (gold == 1) & errors(300, 0.5, seed)
            return sheet(split, gold, truth=truth, seed=seed, wrong=mixed)

        (found,) = label_set.confusable(case(drawn("train", 0), drawn("dev", 1), drawn("test", 2)))
        assert found.telling is same
        assert found.numbers["labels"] == ["b", "c"]
        assert (found.gain.points > 5) is same


class TestWords:
    def test_unseen_words_that_cost_answers(self) -> None:
        known = [["good", "film", "indeed"]] * 200
        new = [["blorv", "film", "quex"] if n % 2 else ["good", "film", "indeed"] for n in range(200)]
        wrong = np.array([bool(n % 2) for n in range(200)]) & errors(200, 0.6)
        sheets = [sheet("train", balanced(200), seed=0, words=known), sheet("dev", balanced(200), seed=1, words=known)]
        (found,) = unseen_words.detect(case(*sheets, sheet("test", balanced(200), seed=2, words=new, wrong=wrong)))
        assert found.telling
        assert found.gain.points == pytest.approx(30, abs=6)
        assert "blorv (100)" in found.evidence[0]

    def test_as_many_as_dev_has_are_to_be_expected(self) -> None:
        new = [["blorv", "film"] if n % 2 else ["good", "film"] for n in range(200)]
        train = sheet("train", balanced(200), seed=0, words=[["good", "film"]] * 200)
        sheets = [sheet(s, balanced(200), seed=1, words=new, wrong=errors(200, 0.2)) for s in ("dev", "test")]
        (found,) = unseen_words.detect(case(train, *sheets))
        assert not found.telling
        assert abs(found.gain.points) < 1e-9

    @pytest.mark.parametrize("alike", [True, False])
    def test_words_that_became_others_everywhere(self, alike: bool) -> None:
        """No text is without them, so that nothing can be re-weighted: dev says what they cost."""
        rng = np.random.default_rng(0)
        plain = [f"p{'abcdefghijklmno'[n]}" for n in range(15)]

        def texts(word: str, share: Sequence[float]) -> list[list[str]]:
            return [[word, *rng.choice(plain, size=8, p=share)] for _ in range(200)]

        even = [1 / 15] * 15
        other = even if alike else [(n + 1) / 120 for n in range(15)]
        sheets = [
            sheet(s, np.zeros(200, int), seed=n, words=texts("good", even)) for n, s in enumerate(("train", "dev"))
        ]
        test = sheet("test", np.zeros(200, int), seed=2, words=texts("blorv", other), wrong=errors(200, 0.9))
        (found,) = unseen_words.detect(case(*sheets, test, predictor=Reader("good")))
        assert (found.telling, found.follows) == (alike, not alike)
        assert ("used as in dev" in found.evidence[-1]) is alike
        assert found.gain.points == pytest.approx(100 if alike else 0)

    def test_several_words_in_one(self) -> None:
        words = ["the", "very", "good", "film", "was", "not", "bad", "at", "all"]
        segment = tokenisation.Segmenter(Counter(words * 5), tiny_encoder())
        assert segment("Theverygood") == ("The", "very", "good")
        assert segment("filmwasnotbad") == ("film", "was", "not", "bad")
        assert segment("goodzyxwv") == ("good", "zyxwv")
        assert segment("zyxwvuts") == ("zyxwvuts",)
        assert segment("good") == ("good",)

    @given(st.text(min_size=1, max_size=30))
    def test_parts_of_a_word_are_all_of_it(self, word: str) -> None:
        segment = tokenisation.Segmenter(Counter(["good", "a", "a", "film"]), tiny_encoder())
        assert "".join(segment(word)) == word

    def test_words_written_otherwise_are_repaired(self) -> None:
        gold = balanced(100, 2)
        words = [["\uff47\uff4f\uff4f\uff44", "film"] if label == 0 else ["bad", "film"] for label in gold]
        train = sheet("train", gold, seed=0, words=[["good" if label == 0 else "bad", "film"] for label in gold])
        test = sheet("test", gold, seed=1, words=words, wrong=gold == 0)
        (found,) = tokenisation.detect(case(train, test, predictor=Reader("good")))
        assert found.numbers["repair"] == "unusual or invisible characters"
        assert found.telling
        assert found.gain.points == pytest.approx(50)

    def test_joined_words_are_split(self) -> None:
        gold = balanced(100, 2)
        train = sheet("train", gold, seed=0, words=[["good" if label == 0 else "bad", "film"] for label in gold])
        words = [["goodfilm"] if label == 0 else ["badfilm"] for label in gold]
        test = sheet("test", gold, seed=1, words=words, wrong=gold == 0)
        (found,) = tokenisation.detect(case(train, test, predictor=Reader("good")))
        assert found.numbers["repair"] == "words joined"
        assert found.gain.points == pytest.approx(50)

    def test_capitals_that_test_lost(self) -> None:
        gold = balanced(100, 2)
        train = sheet("train", gold, seed=0, words=[["In", "Paris" if label == 0 else "rain"] for label in gold])
        words = [["in", "paris" if label == 0 else "rain"] for label in gold]
        test = sheet("test", gold, seed=1, words=words, wrong=gold == 0)
        (found,) = tokenisation.detect(case(train, test, predictor=Reader("Paris")))
        assert found.numbers["repair"] == "casing lost"

    def test_texts_like_those_of_train_need_no_repair(self) -> None:
        words = [["good", "film"]] * 60
        sheets = [sheet(split, balanced(60), seed=0, words=words) for split in ("train", "test")]
        assert tokenisation.detect(case(*sheets, predictor=Reader())) == []

    @given(st.text(max_size=20))
    def test_normal_words_stay_as_they_are(self, word: str) -> None:
        assert tokenisation.normal(tokenisation.normal(word)) == tokenisation.normal(word)
        assert tokenisation.normal(word) or not word


class TestTruncation:
    def test_lengths_that_pile_up_are_a_cut(self) -> None:
        rng = np.random.default_rng(0)
        whole = [["good"] * int(n) for n in rng.integers(3, 30, 200)]
        cut = [ws[:10] for ws in whole]
        assert truncation.pile(sheet("test", balanced(200), seed=0, words=whole), "words") is None
        found = truncation.pile(sheet("test", balanced(200), seed=0, words=cut), "words")
        assert found is not None
        assert found[:2] == (10, sum(len(ws) >= 10 for ws in whole))
        assert found[2] < 1e-6

    def test_the_cut_is_tried_on_dev(self) -> None:
        """The word that tells is the last one of dev's texts: cut after four words, all of them are lost."""
        dev = sheet("dev", np.zeros(100, int), seed=0, words=[["x"] * 5 + ["good"]] * 100)
        cut = [["x"] * (4 if n % 4 else 1 + n % 3) for n in range(100)]
        test = sheet("test", np.zeros(100, int), seed=1, words=cut, wrong=errors(100, 0.8))
        (found,) = truncation.before(case(dev, test, predictor=Reader("good")))
        assert found.gain.points == pytest.approx(100)
        assert found.telling

    def test_texts_that_nearly_all_have_one_length_were_cut(self) -> None:
        dev = sheet("dev", np.zeros(100, int), seed=0, words=[["x"] * 5 + ["good"]] * 100)
        test = sheet("test", np.zeros(100, int), seed=1, words=[["x"] * 3] * 99 + [["x"] * 2])
        (found,) = truncation.before(case(dev, test, predictor=Reader("good")))
        assert (found.numbers["longest"], found.numbers["texts"], found.telling) == (3, 99, True)
        alike = [sheet(s, np.zeros(100, int), seed=0, words=[["x"] * 3] * 100) for s in ("dev", "test")]
        assert truncation.before(case(*alike, predictor=Reader("good"))) == []  # such are the texts of this task


class TestSlices:
    def test_a_slice_that_dev_shows_is_tested_on_every_text(self) -> None:
        meta = [{"channel": "fax" if n % 5 == 0 else "web"} for n in range(200)]
        sheets = [
            sheet(
                s,
                balanced(200),
                seed=n,
                meta=meta,
                wrong=np.array([n % 5 == 0 for n in range(200)]) & errors(200, 0.5, n),
            )
            for n, s in enumerate(("dev", "test"))
        ]
        (alone,) = slices.detect(case(sheets[1]))
        (beside,) = slices.detect(case(*sheets))
        assert beside.numbers["slice"] == "channel = fax"
        assert beside.p < alone.p
        assert "found on dev, tested on test" in beside.evidence[0]

    def test_a_weak_slice_is_named(self) -> None:
        meta = [{"channel": "fax" if n % 5 == 0 else "web"} for n in range(400)]
        wrong = np.array([n % 5 == 0 for n in range(400)]) & errors(400, 0.7) | errors(400, 0.05, 9)
        (found,) = slices.detect(case(sheet("test", balanced(400), seed=0, meta=meta, wrong=wrong)))
        assert "channel = fax" in found.numbers["slice"]
        assert found.telling
        assert found.gain.low > 5

    def test_a_slice_found_by_luck_does_not_survive_the_other_half(self) -> None:
        count = 0
        for seed in range(12):
            rng = np.random.default_rng(seed)
            meta = [{"a": str(rng.integers(8)), "b": str(rng.integers(8))} for _ in range(300)]
            found = slices.detect(
                case(sheet("test", balanced(300), seed=seed, meta=meta, wrong=errors(300, 0.2, seed + 100)))
            )
            count += any(f.p < 0.01 for f in found)
        assert count <= 1

    def test_few_examples_are_not_searched(self) -> None:
        with pytest.raises(NotLookedAtError, match="80"):
            slices.detect(case(sheet("test", balanced(40), seed=0)))


class TestLearning:
    @given(st.floats(0.3, 1.0), st.floats(0.05, 0.3))
    def test_a_power_law_is_continued(self, exponent: float, scale: float) -> None:
        sizes = [100, 200, 400, 800]
        scores = [[0.9 - scale * (n / 100) ** -exponent] for n in sizes]
        wanted = 100 * scale * (8**-exponent - 16**-exponent)
        found, _ = little_data.doubled(sizes, scores)
        assert found.points == pytest.approx(wanted, rel=0.2, abs=0.2)

    def test_a_flat_curve_promises_nothing(self) -> None:
        found, _ = little_data.doubled([100, 200, 400, 800], [[0.8], [0.8], [0.8], [0.8]])
        assert found.points == pytest.approx(0, abs=0.1)

    def test_a_studys_curve_is_preferred(self) -> None:
        points = [
            {"percent": p, "regime": "multi_task", "examples": 10 * p, "seeds": {"1": s, "2": s + 0.01}}
            for p, s in ((25, 0.5), (50, 0.65), (100, 0.75))
        ]
        study = {"learning_curve": {"task": "t", "points": points}}
        (found,) = little_data.detect(case(sheet("train", balanced(1000), seed=0), study=study))
        assert found.telling
        assert "the study's learning curve" in found.summary
        assert 3 < found.gain.points < 10

    def test_a_rising_dev_metric(self) -> None:
        history = [
            {"event": "evaluation", "update": 10 * n, "dev": {"t": {"accuracy": value}}}
            for n, value in enumerate((0.4, 0.6, 0.75), 1)
        ]
        train, dev = (sheet(s, balanced(90), seed=1, wrong=errors(90, 0.25)) for s in ("train", "dev"))
        (found,) = fitting.under(case(train, dev, history=history))
        assert found.telling
        assert found.gain.points > 5

    def test_the_kept_model_is_not_this_tasks_best(self) -> None:
        history = [
            {"event": "evaluation", "update": n, "dev": {"t": {"accuracy": value}}} for n, value in ((1, 0.9), (2, 0.8))
        ] + [{"event": "selected", "update": 2}]
        (found,) = fitting.over(case(sheet("dev", balanced(90), seed=1), history=history))
        assert found.cause == "over-training"
        assert found.gain.points == pytest.approx(5)

    def test_negative_transfer_from_a_study(self) -> None:
        difference = {"difference": -0.04, "low": -0.06, "high": -0.02, "p": 0.001}
        study = {
            "plan": {"baseline_regime": "single_task"},
            "differences": {"t": {"multi_task": difference}},
            "leave_one_out": {"u": {"t": {"difference": 0.05}}, "v": {"t": {"difference": -0.01}}},
        }
        (found,) = transfer.detect(case(sheet("test", balanced(60), seed=0), study=study, others=("u", "v")))
        assert (found.gain.points, found.gain.low, found.gain.high) == pytest.approx((4, 2, 6))
        assert found.numbers["from"][0] == ("u", pytest.approx(-5))
        assert "without u" in found.command

    def test_negative_transfer_from_the_trunk_and_the_probes(self) -> None:
        probe = {"event": "probe", "affinity": {"u": {"t": -0.02}}, "cosine": {"t": {"u": [-0.3, -0.1]}}}
        train, test = (sheet(s, balanced(150), seed=n) for n, s in enumerate(("train", "test")))
        noise = np.random.default_rng(0).normal(size=(150, 6))
        train, test = replace(train, trained=noise), replace(test, trained=noise)
        wrong = sheet("test", test.gold, seed=1, wrong=errors(150, 0.5))
        test = replace(test, answers=wrong.answers, probabilities=wrong.probabilities)
        (found,) = transfer.detect(case(train, test, others=("u",), history=[probe]))
        assert found.gain.low > 10
        assert "cosine -0.20" in found.evidence[0]

    def test_a_task_that_is_crowded_out(self) -> None:
        history = [{"event": "progress", "loss": {"t": 0.5, "u": 15.0 + n}} for n in range(4)]
        wrong = errors(150, 0.5)
        train, dev = (sheet(s, balanced(150), seed=n, wrong=wrong) for n, s in enumerate(("train", "dev")))
        crowded = case(train, dev, others=("u",), history=history)
        (found,) = transfer.detect(crowded)
        assert "u has 33 times the weighted loss" in found.summary
        assert found.p < 0.001
        assert found.gain.points == pytest.approx(50, abs=15)
        calm = case(train, dev, others=("u",), history=[{"event": "progress", "loss": {"t": 0.5, "u": 1.0}}])
        assert transfer.detect(calm)[0].gain.points < 5


class TestConfidences:
    def test_over_confidence_and_its_mending(self) -> None:
        sheets = [sheet(s, balanced(400), seed=1, wrong=errors(400, 0.3), confidence=0.99) for s in ("dev", "test")]
        (found,) = miscalibration.detect(case(*sheets))
        assert found.telling
        assert found.numbers["ece"] == pytest.approx(0.29, abs=0.03)
        assert found.numbers["ece_after"] < 0.07
        assert found.gain.points == pytest.approx(50 * (found.numbers["ece"] - found.numbers["ece_after"]))

    def test_confidences_that_are_right(self) -> None:
        sheets = [sheet(s, balanced(600), seed=1, wrong=errors(600, 0.2), confidence=0.8) for s in ("dev", "test")]
        (found,) = miscalibration.detect(case(*sheets))
        assert not found.telling

    def test_confidences_that_isotonic_regression_has_mended(self) -> None:
        calibration = {"method": "isotonic", "knots": [[0.0, 1.0], [0.0, 0.7]]}
        mended = TextClassification(
            "t", TaskConfig(kind="text_classification"), {"labels": list(LABELS), "calibration": calibration}
        )
        wrong = errors(400, 0.3)
        sheets = [sheet(s, balanced(400), seed=1, wrong=wrong, confidence=0.99, of=mended) for s in ("dev", "test")]
        (found,) = miscalibration.detect(case(*sheets))
        assert found.numbers["ece"] < 0.1  # 0.29 without
        assert found.numbers["confidence"] == pytest.approx(0.7, abs=0.01)

    def test_what_int8_costs(self) -> None:
        dev = sheet("dev", balanced(300), seed=0, wrong=errors(300, 0.2))
        parity = {"splits": {"t": "dev"}, "int8": {"fp32": {"t": 0.95}, "points_lost": {"t": 14.0}}}
        (found,) = quantisation.detect(case(dev, parity=parity))
        assert found.gain.points == pytest.approx(100 * (errors(300, 0.2).mean() - 0.05))
        assert found.gain.low > 1

    def test_an_fp32_bundle_has_nothing_to_lose(self) -> None:
        with pytest.raises(NotLookedAtError, match="not quantised"):
            quantisation.detect(case(sheet("dev", balanced(30), seed=0), parity={"splits": {}}))


def suggested() -> list[str]:
    """Every command in the detectors' sources; x stands for what they put in."""
    found = [case(sheet("dev", balanced(9), seed=0)).label_more("these")]
    for path in Path(shift.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "command":
                parts = node.value.values if isinstance(node.value, ast.JoinedStr) else [node.value]
                found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in parts))
            elif isinstance(node, ast.Constant) and "; then palmette update" in str(node.value):
                found.append(str(node.value).partition("; then ")[2])
    return [command for command in found if command != "x"]  # which is a call of label_more


@pytest.mark.parametrize("command", suggested())
def test_suggested_commands_can_be_typed(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x", "RUN", "STORE", "FILE"):
        (tmp_path / name).touch()
    program, *words = shlex.split(command, comments=True)
    assert program == "palmette"
    command_found: Any = main
    context = click.Context(command_found)
    while isinstance(command_found, click.Group):
        _, command_found, words = command_found.resolve_command(context, words)
    command_found.make_context(command, words, parent=context)


def finding(cause: str = "x", *, gain: Gain | None = None, **changes: Any) -> Finding:
    made = Finding(cause, "t", "why", gain or Gain(5, 3, 7, 1e-6), "accuracy", "how", 1e-6, True, "next")
    return replace(made, **changes)


class TestRanking:
    def test_confidence_comes_before_gain(self) -> None:
        unsure = finding("unsure", gain=Gain(20, -5, 45, 0.2), p=0.2)
        half = finding("half", telling=False, gain=Gain(9, 8, 10, 1e-9))
        sure, small = finding("sure"), finding("small", gain=Gain(0.3, 0.2, 0.4, 1e-9))
        ranked = rank([unsure, small, half, sure], tests=12)
        assert [(f.cause, f.confidence) for f in ranked] == [("sure", "high"), ("half", "moderate"), ("unsure", "low")]

    def test_what_may_follow_from_another_cause_stands_behind_it(self) -> None:
        shifted, unsure = finding("train-test shift", gain=Gain(4, 2, 6, 1e-6)), finding("miscalibration")
        ranked = rank(explain_away([unsure, shifted]), tests=12)
        assert [(f.cause, f.confidence) for f in ranked] == [
            ("train-test shift", "high"),
            ("miscalibration", "moderate"),
        ]
        both = rank(explain_away([unsure, replace(shifted, p=0.0003, gain=Gain(4, 0.5, 8, 0.01))]), tests=30)
        assert [(f.cause, f.confidence) for f in both] == [
            ("train-test shift", "moderate"),
            ("miscalibration", "moderate"),
        ]

    def test_looks_that_found_nothing_count_in_the_correction(self) -> None:
        alone, among = (rank([finding(p=0.004)], tests=tests)[0] for tests in (1, 12))
        assert (alone.confidence, among.confidence) == ("high", "moderate")
        assert among.p_holm == pytest.approx(0.048)

    def test_a_special_cause_takes_its_part_of_a_general_one(self) -> None:
        general, special = finding("train-test shift", gain=Gain(10, 8, 12, 1e-9)), finding("unseen words")
        left = explain_away([general, special])
        assert left[0].gain.points == pytest.approx(5)
        assert "explained" in left[0].evidence[-1]
        assert left[1] == special
        assert explain_away([general, replace(special, telling=False)])[0] == general

    @given(st.floats(-50, 50), st.floats(0.1, 10))
    def test_a_gain_lies_in_its_interval(self, points: float, error: float) -> None:
        found = from_error(points, error)
        assert found.low < found.points < found.high
        assert (found.p < 0.025) == (found.low > 0)


def test_the_page_shows_everything_and_fetches_nothing() -> None:
    found = finding(summary="<b>bold</b>", evidence=("one",), examples=("two <i>",)).as_json()
    content: dict[str, Any] = {
        "subject": "runs/a",
        "seconds": 1.0,
        "tasks": {
            "t": {
                "metric": "accuracy",
                "split": "test",
                "score": 0.5,
                "examples": {"test": 9},
                "labelled": {"test": 10},
            }
        },
        "findings": [found | {"confidence": "high"}],
        "not_looked_at": [{"task": "t", "what": "quantisation loss", "why": "needs a bundle"}],
    }
    html = page.render(content, now=NOW)
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "<i>" not in html
    for part in ("t: x, with high confidence", "needs a bundle", "test 9 of 10", "2026-01-02"):
        assert part in html
    assert "http" not in html.replace("http-equiv", "")
    assert "Nothing stands out" in page.render(content | {"findings": []}, now=NOW)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of all kinds."""
    folder = tmp_path_factory.mktemp("diagnose")
    config = tiny_config(folder, epochs=2, examples=90)
    (folder / "tasks.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    result = CliRunner().invoke(main, ["train", str(folder / "tasks.yaml"), "--out", str(folder / "run")])
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.fixture
def invoke() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(main, ["diagnose", *map(str, arguments)])


def test_a_run_of_all_kinds_is_diagnosed(run: Path, invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke(run, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "diagnosis.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout)["findings"] == content["findings"]
    assert content["tasks"].keys() == {"pos", "ner", "tone", "topics", "same", "likeness", "answer"}
    order = [("high", "moderate", "low").index(f["confidence"]) for f in content["findings"]]
    assert order == sorted(order)
    skipped = {(item["task"], item["what"]) for item in content["not_looked_at"]}
    assert ("likeness", "miscalibration") in skipped
    assert ("pos", "quantisation loss") in skipped
    assert "Why is it bad" in (tmp_path / "out" / "diagnosis.html").read_text(encoding="utf-8")
    again = invoke(run, "--task", "tone", "--out", tmp_path / "out")
    assert again.exit_code == 0, again.output
    assert "tone:" in again.output
    assert "pos" not in json.loads((tmp_path / "out" / "diagnosis.json").read_text(encoding="utf-8"))["tasks"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--task", "posx"], "no such task in this model; it has answer"),
        (["--study", "."], "study.json cannot be read"),
        (["--data", "missing.yaml"], "cannot be read"),
    ],
)
def test_mistakes_are_named(run: Path, invoke: Callable[..., Result], options: list[str], wanted: str) -> None:
    result = invoke(run, *options)
    assert result.exit_code == 2, result.output
    assert wanted in result.output
    assert isinstance(result.exception, SystemExit)


def test_data_that_are_no_utf8_are_named_with_their_line(
    run: Path, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "test.tsv").write_bytes("word\ttone\ncafé\tgood\n".encode("latin-1"))
    source = {"format": "table", "test": "test.tsv", "text": "word", "labels": {"tone": "tone"}}
    data = {"trunk": "t", "tasks": {"tone": {"kind": "text_classification"}}, "sources": [source]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    result = invoke(run, "--data", tmp_path / "data.yaml")
    assert (result.exit_code, "test.tsv:2: not UTF-8" in result.output) == (2, True)


def test_a_folder_with_something_else_is_refused(run: Path, invoke: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    result = invoke(run, "--out", tmp_path)
    assert result.exit_code == 2
    assert "holds no diagnosis" in result.output
