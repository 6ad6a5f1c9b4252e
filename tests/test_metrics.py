"""Every number against an independent implementation: seqeval, scikit-learn, or the formula written out here."""

from __future__ import annotations

import math
import re
import string
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from sklearn.metrics import precision_recall_fscore_support

from palmette import metrics
from palmette.config import TaskConfig
from palmette.kinds import KINDS
from palmette.kinds.sequence_labeling import SequenceLabeling, read_spans, write_iob2
from palmette.types import Answer

CLASSES = ("up", "down", "flat")
classes = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=30)


def unzip(pairs: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [gold for gold, _ in pairs], [found for _, found in pairs]


# --- spans ----------------------------------------------------------------------------------------------------------

TAGS = st.sampled_from(["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"])


@st.composite
def tagged(draw: st.DrawFn) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Gold and predicted IOB2 of some sentences, valid as the kind keeps them; often equal in parts."""
    gold, predicted = [], []
    for length in draw(st.lists(st.integers(0, 8), min_size=1, max_size=6)):
        first = draw(st.lists(TAGS, min_size=length, max_size=length))
        second = [draw(st.sampled_from((tag, tag, "O", "B-PER"))) for tag in first]
        gold.append(write_iob2(read_spans(first, "iob2"), length))
        predicted.append(write_iob2(read_spans(second, "iob2"), length))
    return gold, predicted


@given(tagged())
@settings(max_examples=150)
def test_span_scores_are_seqevals(drawn: tuple[list[tuple[str, ...]], list[tuple[str, ...]]]) -> None:
    gold, predicted = drawn
    if not any(gold):
        return
    kind = SequenceLabeling("ner", TaskConfig(kind="sequence_labeling", scheme="iob2"), {"labels": []})
    scores = kind.score(gold, predicted)
    reference = ([list(tags) for tags in gold], [list(tags) for tags in predicted])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns of 0 / 0
        assert scores["span_f1"] == pytest.approx(f1_score(*reference, zero_division=0))
        assert scores["precision"] == pytest.approx(precision_score(*reference, zero_division=0))
        assert scores["recall"] == pytest.approx(recall_score(*reference, zero_division=0))
        report = classification_report(*reference, output_dict=True, zero_division=0) if any_span(*drawn) else {}
    table = metrics.per_label([kind.items(tags) for tags in gold], [kind.items(tags) for tags in predicted])
    assert set(table) == set(report) - {"micro avg", "macro avg", "weighted avg"}
    for label, found in table.items():
        wanted = report[label]
        assert found["precision"] == pytest.approx(wanted["precision"])
        assert found["recall"] == pytest.approx(wanted["recall"])
        assert found["f1"] == pytest.approx(wanted["f1-score"])
        assert found["support"] == wanted["support"]


def any_span(gold: list[tuple[str, ...]], predicted: list[tuple[str, ...]]) -> bool:
    return any(tag != "O" for tags in [*gold, *predicted] for tag in tags)


def test_nothing_found_and_nothing_there_is_zero_as_in_conlleval() -> None:
    assert metrics.sets_f1([[]], [[]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_misaligned_predictions_are_an_error_not_a_score() -> None:
    with pytest.raises(ValueError, match="zip"):
        metrics.accuracy(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="zip"):
        metrics.sets_f1([[1], [2]], [[1]])
    with pytest.raises(ValueError, match="zip"):
        metrics.squad([()], [])
    with pytest.raises(ValueError, match="zip"):
        metrics.per_label([[(0, "a")]], [])


# --- classes --------------------------------------------------------------------------------------------------------


@given(classes)
@settings(max_examples=100)
def test_class_scores_are_their_formulas(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = unzip(pairs)
    assert metrics.accuracy(gold, predicted) == pytest.approx(np.mean([g == p for g, p in pairs]))
    occurring = sorted({*gold, *predicted})
    scores = []
    for label in occurring:
        both = sum(g == p == label for g, p in pairs)
        total = gold.count(label) + predicted.count(label)
        scores.append(2 * both / total)
    assert metrics.macro_f1(gold, predicted) == pytest.approx(np.mean(scores))
    # Gorodkin 2004, from covariances of the indicator matrices
    first = np.array([[g == label for label in CLASSES] for g in gold], dtype=float)
    second = np.array([[p == label for label in CLASSES] for p in predicted], dtype=float)

    def covariance(a: Any, b: Any) -> float:
        return float(((a - a.mean(0)) * (b - b.mean(0))).sum())

    scale = math.sqrt(covariance(first, first) * covariance(second, second))
    wanted = covariance(first, second) / scale if scale > 1e-12 else 0.0
    assert metrics.mcc(gold, predicted) == pytest.approx(wanted, abs=1e-9)


@given(classes)
@settings(max_examples=60)
def test_scores_per_label_are_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = unzip(pairs)
    labels = sorted({*gold, *predicted})
    wanted = precision_recall_fscore_support(gold, predicted, labels=labels, zero_division=0.0)
    found = metrics.per_label([{("text", label)} for label in gold], [{("text", label)} for label in predicted])
    assert list(found) == labels
    for column, name in enumerate(("precision", "recall", "f1", "support")):
        assert [found[label][name] for label in labels] == pytest.approx(list(wanted[column]))


@given(
    st.lists(st.tuples(st.frozensets(st.sampled_from(CLASSES)), st.frozensets(st.sampled_from(CLASSES))), min_size=1)
)
@settings(max_examples=80)
def test_scores_of_sets_are_scikit_learns(pairs: list[tuple[frozenset[str], frozenset[str]]]) -> None:
    gold, predicted = unzip(pairs)
    kind = KINDS["multilabel_classification"](
        "topics", TaskConfig(kind="multilabel_classification"), {"labels": list(CLASSES)}
    )
    scores = kind.score(gold, predicted)
    matrices = [np.array([[label in found for label in CLASSES] for found in side]) for side in (gold, predicted)]
    wanted = precision_recall_fscore_support(*matrices, average="micro", zero_division=0.0)
    assert [scores["precision"], scores["recall"], scores["micro_f1"]] == pytest.approx(list(wanted[:3]))
    assert scores["subset_accuracy"] == pytest.approx(np.mean([g == p for g, p in pairs]))


# --- numbers --------------------------------------------------------------------------------------------------------

numbers = st.lists(
    st.tuples(st.integers(-20, 20).map(lambda n: n / 4), st.integers(-20, 20).map(lambda n: n / 4)),
    min_size=2,
    max_size=20,
)


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; ties share their mean rank."""
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


@given(numbers)
@settings(max_examples=100)
def test_correlations_are_their_formulas(pairs: list[tuple[float, float]]) -> None:
    gold, predicted = unzip(pairs)
    assert metrics.pearson(gold, predicted) == pytest.approx(correlation(gold, predicted), abs=1e-9)
    assert metrics.spearman(gold, predicted) == pytest.approx(correlation(ranks(gold), ranks(predicted)), abs=1e-9)


@pytest.mark.parametrize("measure", [metrics.pearson, metrics.spearman])
def test_a_correlation_with_a_constant_is_zero(measure: Any) -> None:
    assert measure([1.0, 2.0], [3.0, 3.0]) == 0.0
    assert measure([1.0], [3.0]) == 0.0


# --- answers --------------------------------------------------------------------------------------------------------


def squad_normalised(text: str) -> list[str]:
    """The definition: lower case, without punctuation, without articles, split at white space."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def squad_by_hand(references: list[str], guess: str) -> tuple[float, float]:
    wanted = [tokens for reference in references if (tokens := squad_normalised(reference))] or [[]]
    found = squad_normalised(guess)
    exact, best = 0.0, 0.0
    for tokens in wanted:
        exact = max(exact, float(tokens == found))
        left, shared = list(tokens), 0
        for token in found:
            if token in left:
                left.remove(token)
                shared += 1
        if not tokens or not found:
            best = max(best, float(tokens == found))
        elif shared:
            precision, recall = shared / len(found), shared / len(tokens)
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


phrases = st.lists(
    st.sampled_from(["the", "a", "An", "cat", "Cat,", "sat", "sat", "-", "anna's", "\xa0"]), max_size=5
).map(" ".join)


@given(st.lists(st.tuples(st.lists(phrases, max_size=3), st.none() | phrases), min_size=1, max_size=6))
@settings(max_examples=150)
def test_squad_scores_are_their_definition(questions: list[tuple[list[str], str | None]]) -> None:
    gold = [tuple(Answer(0, text) for text in references) for references, _ in questions]
    predicted = [() if guess is None else (Answer(0, guess),) for _, guess in questions]
    found = metrics.squad(gold, predicted)
    wanted = [squad_by_hand(references, guess or "") for references, guess in questions]
    assert found["exact_match"] == pytest.approx(np.mean([exact for exact, _ in wanted]))
    assert found["f1"] == pytest.approx(np.mean([overlap for _, overlap in wanted]))


def test_squad_knows_unanswerable_questions() -> None:
    paris = (Answer(0, "in Paris"),)
    assert metrics.squad([()], [()]) == {"exact_match": 1.0, "f1": 1.0}
    assert metrics.squad([()], [paris]) == {"exact_match": 0.0, "f1": 0.0}
    assert metrics.squad([paris], [()]) == {"exact_match": 0.0, "f1": 0.0}
    assert metrics.squad([paris], [(Answer(0, "Paris!"),)])["f1"] == pytest.approx(2 / 3)


# --- selection ------------------------------------------------------------------------------------------------------

histories = st.integers(1, 6).flatmap(
    lambda count: st.dictionaries(
        st.sampled_from(["pos", "ner", "tone"]),
        st.lists(st.integers(-20, 20).map(lambda n: n / 20) | st.just(math.nan), min_size=count, max_size=count),
        min_size=1,
    )
)


@given(histories)
@settings(max_examples=150)
def test_relative_to_best(values: dict[str, list[float]]) -> None:
    scores = metrics.relative_to_best(dict(values))
    count = len(next(iter(values.values())))
    assert len(scores) == count
    assert all(score <= 1 + 1e-9 for score in scores)
    positive = {task: past for task, past in values.items() if any(value > 0 for value in past)}
    if not positive:
        return
    for number in range(count):
        at_best = all(
            past[number] == max(value for value in past if not math.isnan(value)) for past in positive.values()
        )
        if len(positive) == len(values):
            assert math.isclose(scores[number], 1) == at_best
    # the order of tasks and the scale of a task's metric do not matter
    backwards = dict(reversed([(task, [value * 7 for value in past]) for task, past in values.items()]))
    assert metrics.relative_to_best(backwards) == pytest.approx(scores, abs=1e-9)


def test_one_better_task_and_no_worse_one_is_a_better_model() -> None:
    scores = metrics.relative_to_best({"pos": [0.8, 0.9, 0.9], "ner": [0.5, 0.5, 0.6], "dead": [0.0, 0.0, 0.0]})
    assert scores == sorted(scores)
    assert scores[2] == 1.0
    assert metrics.relative_to_best({"dead": [0.0, math.nan]}) == [0.0, 0.0]
    assert metrics.relative_to_best({}) == []
