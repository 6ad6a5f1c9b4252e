"""Every kind keeps the same promises: labels are checked, nothing is counted twice, a perfect head is read as gold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import WORDS, tiny_encoder
from palmette.config import Config, TaskConfig
from palmette.errors import ConfigError
from palmette.kinds import KINDS, AnyKind, Kind, find_kind, task_kinds
from palmette.kinds.base import UNREADABLE, Array, LabelError, RawLabel
from palmette.kinds.extractive_qa import ExtractiveQA
from palmette.kinds.regression import Regression
from palmette.kinds.text_classification import TextClassification
from palmette.text import Encoded, TextEncoder
from palmette.types import Answer, Example, Label, Prediction, Text
from palmette.words import find_words

ENCODER = tiny_encoder(max_length=24)


@dataclass(frozen=True)
class Case:
    """A kind with what it may be asked to predict.

    Attributes:
        kind, config: the kind as declared.
        draw: examples that carry its gold label, long ones included.
        units: labelled units of an example.
        refused: raw labels that fit no example of three words.
    """

    kind: str
    draw: st.SearchStrategy[Example]
    units: Callable[[Example], int]
    refused: Sequence[RawLabel]
    scheme: Any = None

    @property
    def config(self) -> TaskConfig:
        return TaskConfig(kind=self.kind, scheme=self.scheme)


TASK = "task"
texts = st.lists(st.sampled_from([*WORDS, "Xyzzy", "\ufe0f", "\u2764"]), max_size=40).map(
    lambda w: Text(words=tuple(w))
)
passages = st.lists(st.sampled_from([*WORDS, "Paris.", "(a", "\n"]), max_size=60).map(
    lambda parts: find_words("  ".join(parts), language="en")
)


def labelled(text: st.SearchStrategy[Text], label: st.SearchStrategy[Any], *, pair: bool = False) -> Any:
    return st.builds(
        lambda first, second, found: Example(first, {TASK: found}, pair=second),
        text,
        texts if pair else st.none(),
        label,
    )


def tagged(tags: Sequence[str]) -> st.SearchStrategy[Example]:
    return texts.flatmap(
        lambda text: st.lists(st.sampled_from(tags), min_size=len(text.words), max_size=len(text.words)).map(
            lambda found: Example(text, {TASK: tuple(found)})
        )
    )


@st.composite
def spanned(draw: st.DrawFn) -> Example:
    text = draw(texts)
    raw = draw(
        st.lists(
            st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]),
            min_size=len(text.words),
            max_size=len(text.words),
        )
    )
    return Example(text, {TASK: KINDS["sequence_labeling"].parse(tuple(raw), SPANS, Example(text, {}))})


SPANS = TaskConfig(kind="sequence_labeling", scheme="iob2")


@st.composite
def questions(draw: st.DrawFn) -> Example:
    """A question with an answer of whole words that fits a window, or with none."""
    question, passage = draw(texts.filter(lambda text: len(text.words) <= 5)), draw(passages)
    answers: tuple[Answer, ...] = ()
    answerable = draw(st.booleans())
    if passage.words and answerable:
        first = draw(st.integers(0, len(passage.words) - 1))
        last = min(first + draw(st.integers(0, 1)), len(passage.words) - 1)
        start, stop = passage.spans[first][0], passage.spans[last][1]
        answers = (Answer(start, passage.string[start:stop]),)
    return Example(question, {TASK: answers}, pair=passage)


one = st.sampled_from(("down", "flat", "up"))
CASES = {
    "tags": Case(
        "sequence_labeling",
        tagged(("DET", "NOUN", "VERB")),
        lambda example: len(example.text.words),
        ["NOUN", 3.0, ("NOUN",), ("a", "b", "c", "d"), ("NOUN", "", "NOUN"), (Answer(0, "a"),)],
    ),
    "spans": Case(
        "sequence_labeling",
        spanned(),
        lambda example: len(example.text.words),
        ["O", 3.0, ("O",), ("O", "PER", "O"), ("O", "S-PER", "O"), ("O", "", "O")],
        scheme="iob2",
    ),
    "text": Case("text_classification", labelled(texts, one), lambda _: 1, ["", "  ", 3.0, ("up",), ()]),
    "pair": Case("pair_classification", labelled(texts, one, pair=True), lambda _: 1, ["", "\t", 3.0, ("up",)]),
    "sets": Case(
        "multilabel_classification",
        labelled(texts, st.frozensets(one)),
        lambda _: 1,
        ["", 3.0, ("up", ""), (Answer(0, "a"),)],
    ),
    "number": Case(
        "regression",
        labelled(texts, st.integers(-40, 40).map(lambda n: n / 8), pair=True),
        lambda _: 1,
        ["", "high", "nan", "-inf", math.nan, math.inf, ("1", "2")],
    ),
    "answer": Case(
        "extractive_qa",
        questions(),
        lambda _: 1,
        ["cat", 3.0, ("cat",), (Answer(0, "at"),), (Answer(-3, "cat"),), (Answer(1, ""),), (Answer(99, "cat"),)],
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_every_kind_has_a_case() -> None:
    assert {case.kind for case in CASES.values()} == {name for name, kind in KINDS.items() if kind.has_head}


# A training set without a single label has nothing to fit.
ANCHORS: dict[str, list[Any]] = {
    "sequence_labeling": [("O", "B-PER")],
    "multilabel_classification": [frozenset({"up"})],
}


def fitted(case: Case, examples: Sequence[Example]) -> AnyKind:
    kind = KINDS[case.kind]
    return kind(
        TASK, case.config, kind.fit([*ANCHORS.get(case.kind, ()), *(example.labels[TASK] for example in examples)])
    )


def encode(example: Example, encoder: TextEncoder = ENCODER) -> Encoded:
    (encoded,) = encoder.encode([example])
    return encoded


def perfect(kind: AnyKind, targets: dict[str, Array], tokens: int) -> Array:
    """What a head that is sure of the targets answers for one row, in the shape that the kind's head gives."""
    target = targets["target"]
    if kind.config.kind == "regression":
        return target[:, None]
    if kind.config.kind == "multilabel_classification":
        return np.asarray(np.where(target > 0, 30.0, -30.0), dtype=np.float32)
    if kind.config.kind == "extractive_qa":
        scores = np.zeros((1, tokens, 2), dtype=np.float32)
        scores[0, target[0, 0], 0] = scores[0, target[0, 1], 1] = 30.0
        return scores
    scores = np.zeros((len(target), len(kind.labels)), dtype=np.float32)
    scores[np.arange(len(target)), target] = 30.0
    return scores


def answered(kind: AnyKind, example: Example) -> tuple[Prediction, float]:
    """The prediction from perfect outputs, and the sum of the weights of all windows."""
    encoded = encode(example)
    weight, windows = 0.0, []
    for row in encoded.rows:
        targets = kind.targets(example.labels[TASK], row, encoded.spans)
        units = len(kind.index(row, 0, len(row)))
        assert all(len(values) == units for values in targets.values())
        weight += float(targets["weight"].sum(dtype=np.float64))
        windows.append((row, perfect(kind, targets, len(row))))
    return kind.decode(windows, example, encoded.spans), weight


@cases
def test_a_perfect_head_is_read_as_gold_and_every_unit_counts_once(case: Case) -> None:
    @given(st.lists(case.draw, min_size=1, max_size=4))
    @settings(max_examples=60)
    def check(examples: list[Example]) -> None:
        kind = fitted(case, examples)
        for example in examples:
            found, weight = answered(kind, example)
            assert weight == pytest.approx(case.units(example), abs=1e-5)
            label = example.labels[TASK]
            if isinstance(label, float):
                assert found.label == pytest.approx(label, abs=1e-4)
                assert isinstance(found.confidence, float)
                assert math.isnan(found.confidence)
            elif case.kind == "extractive_qa" and label and not _visible(kind, example):
                assert not found.label or not kind.state["unanswerable"]  # no window shows the whole answer
            else:
                assert found.label == label
                certain = found.confidence if isinstance(found.confidence, tuple) else (found.confidence,)
                if case.kind != "extractive_qa" or label or kind.state["unanswerable"]:
                    assert all(value > 0.99 for value in certain)

    check()


def _visible(kind: AnyKind, example: Example) -> bool:
    encoded = encode(example)
    label = example.labels[TASK]
    return any(kind.targets(label, row, encoded.spans)["target"].any() for row in encoded.rows)


@cases
def test_state_is_json_and_does_not_depend_on_order(case: Case) -> None:
    @given(st.lists(case.draw, min_size=1, max_size=6), st.randoms(use_true_random=False))
    @settings(max_examples=40)
    def check(examples: list[Example], random: Any) -> None:
        shuffled = list(examples)
        random.shuffle(shuffled)
        state = fitted(case, examples).state
        assert json.dumps(state) == json.dumps(fitted(case, shuffled).state)
        assert json.loads(json.dumps(state)) == state

    check()


@cases
def test_predictions_are_json_and_offsets_slice_back(case: Case) -> None:
    @given(case.draw)
    @settings(max_examples=40)
    def check(example: Example) -> None:
        kind = fitted(case, [example])
        found, _ = answered(kind, example)
        rendered = json.loads(json.dumps(kind.render(found, example), allow_nan=False))
        assert_slices(rendered, (example.pair or example.text).string)
        if case.kind == "sequence_labeling":
            assert len(rendered["tags"]) == len(example.text.words)

    check()


def assert_slices(rendered: Any, text: str) -> None:
    for span in rendered.get("spans", [rendered] if rendered.get("answer") else []):
        assert text[span["start"] : span["end"]] == span.get("text", span.get("answer"))


@cases
def test_gold_against_itself_is_a_perfect_score(case: Case) -> None:
    @given(st.lists(case.draw, min_size=2, max_size=5))
    @settings(max_examples=30)
    def check(examples: list[Example]) -> None:
        kind = fitted(case, examples)
        labels = [example.labels[TASK] for example in examples]
        if case.kind == "sequence_labeling" and not any(labels):
            return
        scores = kind.score(labels, labels)
        assert set(scores) >= {metric for metric in kind.metrics if metric != "mse"} - absent(case)
        assert kind.metric in scores
        assert all(math.isfinite(value) for value in scores.values())
        if case.kind in ("text_classification", "pair_classification", "extractive_qa"):
            assert scores[kind.metric] == pytest.approx(1.0)
        assert all(not kind.unseen(label) for label in labels)

    check()


def absent(case: Case) -> set[str]:
    if case.kind != "sequence_labeling":
        return set()
    return {"macro_f1"} if case.scheme else {"span_f1"}


def metrics_of(case: Case) -> list[str]:
    """What may be chosen for the case, as its configuration."""
    return [metric for metric in KINDS[case.kind].metrics if metric != "mse" and metric not in absent(case)]


@st.composite
def answers(draw: st.DrawFn, case: Case) -> tuple[list[Label], list[Label], list[Label]]:
    """Labels of a training set, and gold and predicted labels of another, all of which may be new to it."""
    drawn = [draw(st.lists(case.draw, min_size=n, max_size=12)) for n in (1, 2)]
    training, gold = ([example.labels[TASK] for example in examples] for examples in drawn)
    if case.kind == "sequence_labeling":  # as many tags as words
        tagged: Any = gold
        return training, gold, [tuple(draw(st.permutations([*tags, *tags])))[: len(tags)] for tags in tagged]
    return training, gold, draw(st.permutations([*gold, *training]))[: len(gold)]


@pytest.mark.parametrize(
    ("name", "metric"), [(name, metric) for name, case in CASES.items() for metric in metrics_of(case)]
)
def test_summed_parts_give_the_metric(name: str, metric: str) -> None:
    case = CASES[name]

    @given(answers(case))
    @settings(max_examples=100)
    def check(drawn: tuple[list[Label], list[Label], list[Label]]) -> None:
        training, gold, predicted = drawn
        if case.kind == "sequence_labeling" and not any(gold):
            return
        kind = declared_kind(case, training, metric=metric)
        parts = kind.parts(gold, predicted)
        assert parts.shape[0] == len(gold)
        whole = kind.combine(parts.sum(axis=0))
        assert float(whole) == pytest.approx(kind.score(gold, predicted)[metric], abs=1e-9)
        # Over leading axes of any shape; sums over nothing have a value, too.
        stacked = np.stack([[parts.sum(axis=0)], [parts[:0].sum(axis=0)]])
        assert kind.combine(stacked) == pytest.approx(np.array([[whole], [0.0]]), abs=1e-12)
        # A side of the sample can be scored without scoring again. Ranks are those of the whole sample.
        half = len(gold) // 2
        if metric != "spearman" and any(gold[:half]):
            assert kind.combine(parts[:half].sum(axis=0)) == pytest.approx(
                kind.score(gold[:half], predicted[:half])[metric], abs=1e-9
            )

    check()


def declared_kind(case: Case, labels: Sequence[Label], *, metric: str) -> AnyKind:
    kind = KINDS[case.kind]
    config = TaskConfig(kind=case.kind, scheme=case.scheme, metric=metric)
    return kind(TASK, config, kind.fit([*ANCHORS.get(case.kind, ()), *labels]))


@cases
def test_no_example_has_no_parts(case: Case) -> None:
    for metric in metrics_of(case):
        kind = declared_kind(case, [1.0] if case.kind == "regression" else [], metric=metric)
        parts = kind.parts([], [])
        assert len(parts) == 0
        assert kind.combine(parts.sum(axis=0)) == 0


def test_models_of_one_task_have_the_same_columns() -> None:
    kind = TextClassification(
        TASK, TaskConfig(kind="text_classification", metric="macro_f1"), {"labels": ["a", "b", "c"]}
    )
    gold = ["a", "b", "new"]
    answers = (["a", "a", "a"], ["c", "b", "c"], ["a", UNREADABLE, "b"])
    found = [kind.parts(gold, predicted) for predicted in answers]
    assert {parts.shape for parts in found} == {(3, 3 * 5)}, "of what is written, too"
    for parts, predicted in zip(found, answers, strict=True):
        score = kind.score(gold, predicted)["macro_f1"]
        assert float(kind.combine(parts.sum(axis=0))) == pytest.approx(score, abs=1e-12)


def test_spearman_ranks_ties_by_their_average() -> None:
    kind = Regression(TASK, TaskConfig(kind="regression", metric="spearman"), {"mean": 0.0, "deviation": 1.0})
    gold, predicted = [1.0, 2.0, 2.0, 3.0, 9.0], [0.0, 5.0, 1.0, 1.0, 7.0]
    assert float(kind.combine(kind.parts(gold, predicted).sum(axis=0))) == pytest.approx(
        kind.score(gold, predicted)["spearman"], abs=1e-12
    )


class Lenient(TextClassification):
    """A kind of another package: its metrics are its own, `parts` and `combine` are the base's."""

    metrics: ClassVar[Any] = ("share", "either")
    parts = Kind.parts
    combine = Kind.combine

    def score(self, gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
        right = [wanted == found for wanted, found in zip(gold, predicted, strict=True)]
        return {"share": sum(right) / len(right), "either": float(any(right))}


def test_a_kind_without_parts_has_those_of_a_mean() -> None:
    kind = Lenient(TASK, TaskConfig(kind="text_classification", metric="share"), {"labels": ["a", "b"]})
    parts = kind.parts(["a", "b", "a"], ["a", "a", "a"])
    assert parts.tolist() == [[1, 1], [0, 1], [1, 1]]
    assert kind.combine(parts.sum(axis=0)) == pytest.approx(2 / 3)


def test_a_kind_without_parts_whose_metric_is_no_mean_is_told_to_have_some() -> None:
    kind = Lenient(TASK, TaskConfig(kind="text_classification", metric="either"), {"labels": ["a", "b"]})
    with pytest.raises(ConfigError, match=r"tasks\.task\.metric: either .* implement `parts` and `combine` in Lenient"):
        kind.parts(["a", "b"], ["a", "a"])


@cases
def test_labels_that_do_not_fit_are_refused(case: Case) -> None:
    example = Example(
        Text(("the", "cat", "sat")), {}, pair=Text(("the", "cat")) if case.kind == "extractive_qa" else None
    )
    for raw in case.refused:
        with pytest.raises(LabelError):
            KINDS[case.kind].parse(raw, case.config, example)


@pytest.mark.parametrize(
    ("case", "raw", "label"),
    [
        ("tags", ("D", "N", "V"), ("D", "N", "V")),
        ("spans", ("I-PER", "I-PER", "O"), ("B-PER", "I-PER", "O")),
        ("text", " up ", "up"),
        ("pair", "up", "up"),
        ("sets", "up", frozenset({"up"})),
        ("sets", (), frozenset()),
        ("sets", ("up", "up", "down"), frozenset({"up", "down"})),
        ("number", "2.50", 2.5),
        ("number", -1, -1.0),
        ("answer", (), ()),
        ("answer", (Answer(4, "cat"),), (Answer(4, "cat"),)),
    ],
)
def test_labels_are_brought_to_the_kind_s_own_form(case: str, raw: RawLabel, label: Label) -> None:
    example = Example(Text(("the", "cat", "sat")), {}, pair=Text(("the", "cat")) if case == "answer" else None)
    assert KINDS[CASES[case].kind].parse(raw, CASES[case].config, example) == label


@cases
def test_the_loss_of_two_halves_is_the_loss_of_the_whole(case: Case) -> None:
    torch = pytest.importorskip("torch")

    @given(st.lists(case.draw, min_size=1, max_size=4), st.integers(0, 2**31))
    @settings(max_examples=25)
    def check(examples: list[Example], seed: int) -> None:
        kind = fitted(case, examples)
        rng = np.random.default_rng(seed)
        parts, outputs = [], []
        encoded = [encode(example) for example in examples]
        width = max(len(row) for item in encoded for row in item.rows)
        for example, item in zip(examples, encoded, strict=True):
            for row in item.rows:
                targets = kind.targets(example.labels[TASK], row, item.spans)
                shape = perfect(kind, targets, width).shape
                parts.append({name: torch.from_numpy(values) for name, values in targets.items()})
                outputs.append(torch.from_numpy(rng.normal(size=shape).astype(np.float32)))

        def loss(chosen: slice) -> Any:
            batch = {name: torch.cat([part[name] for part in parts[chosen]]) for name in parts[0]}
            return kind.loss(torch.cat(outputs[chosen]), batch)

        middle = len(parts) // 2
        whole = loss(slice(None))
        assert whole.shape == ()
        halves = loss(slice(middle, None)) + (loss(slice(middle)) if middle else 0)
        assert float(halves) == pytest.approx(float(whole), rel=1e-4, abs=1e-4)

    check()


@cases
def test_heads_give_what_decoding_and_loss_read(case: Case) -> None:
    torch = pytest.importorskip("torch")

    @given(st.lists(case.draw, min_size=2, max_size=3))
    @settings(max_examples=10)
    def check(examples: list[Example]) -> None:
        kind = fitted(case, examples)
        head = kind.head(8, 0.0)
        rows = [(example, row, item.spans) for example in examples for item in [encode(example)] for row in item.rows]
        width = max(len(row) for _, row, _ in rows)
        hidden = torch.randn(len(rows), width, 8, generator=torch.Generator().manual_seed(0))
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for _, row, _ in rows])
        index = np.concatenate([kind.index(row, number, width) for number, (_, row, _) in enumerate(rows)])
        outputs = head(hidden, mask, torch.from_numpy(index))
        parts = [kind.targets(example.labels[TASK], row, spans) for example, row, spans in rows]
        targets = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}
        assert len(outputs) == len(targets["weight"]) == len(index)
        loss = kind.loss(outputs, targets)
        assert torch.isfinite(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    check()


def test_an_answer_in_the_overlap_of_two_windows_is_certain() -> None:
    passage = find_words("the cat sat on the mat " * 6, language="en")
    kind = KINDS["extractive_qa"](TASK, TaskConfig(kind="extractive_qa"), {"unanswerable": True})
    shared: int | np.integer[Any] = 0
    for start, stop in passage.spans:
        example = Example(Text(("who",)), {TASK: (Answer(start, passage.string[start:stop]),)}, pair=passage)
        encoded = encode(example)
        shown = [kind.targets(example.labels[TASK], row, encoded.spans)["target"].any() for row in encoded.rows]
        shared += sum(shown) > 1
        found, _ = answered(kind, example)
        assert found.label == example.labels[TASK]
        assert isinstance(found.confidence, float)
        assert found.confidence > 0.99
    assert shared


def test_several_references_are_all_kept() -> None:
    example = Example(Text(("who",)), {}, pair=Text(("the", "cat", "sat")))
    raw = (Answer(4, "cat"), Answer(0, "the cat"))
    assert KINDS["extractive_qa"].parse(raw, TaskConfig(kind="extractive_qa"), example) == raw


def test_labels_that_training_lacks_are_named() -> None:
    for case, label in (("tags", ("X", "NOUN")), ("text", "X"), ("sets", frozenset({"X", "up"}))):
        kind = KINDS[CASES[case].kind](TASK, CASES[case].config, {"labels": ["NOUN", "up"]})
        assert kind.unseen(label) == {"X"}


def test_inputs_that_the_task_was_not_trained_on_are_not_taken() -> None:
    text, pair = Example(Text(("a",)), {}), Example(Text(("a",)), {}, pair=Text(("b",)))
    for paired, wanted in ((None, (True, True)), (False, (True, False)), (True, (False, True))):
        kind = KINDS["regression"](TASK, TaskConfig(kind="regression"), {"paired": paired})
        assert (kind.takes(text), kind.takes(pair)) == wanted


def test_a_set_task_without_a_single_label_still_answers() -> None:
    kind = KINDS["multilabel_classification"](TASK, CASES["sets"].config, {"labels": []})
    example = Example(Text(("cat",)), {TASK: frozenset()})
    (row,) = encode(example).rows
    assert kind.decode([(row, np.zeros((1, 0), dtype=np.float32))], example, None).label == frozenset()


# --- declarations ---------------------------------------------------------------------------------------------------


def declared(**task: Any) -> Config:
    return Config.parse(
        {
            "tasks": {"t": task},
            "sources": [{"format": "columns", "train": "a.txt", "labels": {"t": 1}}],
        }
    )


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "nonsense"}, r"tasks\.t\.kind: 'nonsense' is not one of sequence_labeling"),
        ({"kind": "text_classification", "metric": "span_f1"}, r"tasks\.t\.metric: 'span_f1' is not one of accuracy"),
        ({"kind": "sequence_labeling", "metric": "span_f1"}, r"tasks\.t\.scheme: span_f1 needs the scheme"),
        (
            {"kind": "sequence_labeling", "scheme": "iob2", "metric": "macro_f1"},
            r"tasks\.t\.metric: macro_f1 is of plain tags",
        ),
        ({"kind": "regression", "metric": "mse"}, r"tasks\.t\.metric: mse falls"),
    ],
)
def test_a_declaration_that_no_kind_can_follow_is_refused(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_kinds(declared(**task))


def test_where_the_refused_declaration_stands_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.yaml"
    path.write_text(
        "tasks:\n  t:\n    kind: regression\n    metric: accuracy\n"
        "sources:\n  - {format: columns, train: a.txt, labels: {t: 1}}\n"
    )
    with pytest.raises(ConfigError, match=r"tasks\.yaml:4: tasks\.t\.metric: 'accuracy' is not one of"):
        task_kinds(Config.load(path))
    with pytest.raises(ConfigError, match=r"--set tasks\.t\.kind=guess: tasks\.t\.kind: 'guess' is not one of"):
        task_kinds(Config.load(path, ["tasks.t.kind=guess"]))
    assert Config.load(path) == Config.load(path, ["tasks.t.kind=regression"])


@pytest.mark.parametrize("name", KINDS)
def test_kinds_are_found_by_name(name: str) -> None:
    assert find_kind(name) is KINDS[name]
    family = "heads" if KINDS[name].has_head else "text2text"
    config = declared(kind=name).model_copy(update={"family": family})
    assert task_kinds(config) == {"t": KINDS[name]}


def test_an_answer_that_no_window_shows_whole_is_counted() -> None:
    kind = ExtractiveQA("answer", TaskConfig(kind="extractive_qa"), {"unanswerable": False})
    passage = Text(("the", "cat", "sat", "on", "a", "mat") * 12)
    encoded = tiny_encoder(32).encode([Example(Text(("where",)), {}, pair=passage)])[0]
    assert len(encoded.rows) > 1
    start, stop = passage.spans[42]
    assert not kind.out_of_reach((Answer(start, passage.string[start:stop]),), encoded)
    assert kind.out_of_reach((Answer(0, passage.string),), encoded)
    assert not kind.out_of_reach((), encoded), "no answer is what every window shows"
