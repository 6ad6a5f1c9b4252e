"""Explanations: a word that a head ignores scores nothing, the one that decides most; batches do not matter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import palmette
from conftest import Trained
from fakes import ALL_TASKS, WORDS, tiny_encoder, tiny_trunk, write_jsonl
from palmette import explain as explaining
from palmette.answering import Answerer
from palmette.batching import Batch
from palmette.config import TaskConfig
from palmette.errors import RunError
from palmette.explain import by_portions, explain
from palmette.kinds import KINDS, AnyKind
from palmette.predictor import Input, Predictor
from palmette.run import Run
from palmette.text import TextEncoder
from palmette.types import Example, Text
from palmette.words import find_words
from strategies import TOKENIZERS, words

ENCODER = tiny_encoder(max_length=24)
GOOD, CAT = (ENCODER.tokenizer.token_to_id(word) for word in ("good", "cat"))


def kind_of(name: str, task: str, *, scheme: Any = None, **state: Any) -> AnyKind:
    return KINDS[name](task, TaskConfig(kind=name, scheme=scheme), state)


TASKS: dict[str, AnyKind] = {
    "tags": kind_of("sequence_labeling", "tags", labels=["cat", "other"], paired=False),
    "ner": kind_of("sequence_labeling", "ner", scheme="iob2", labels=["B-CAT", "I-CAT", "O"], paired=False),
    "tone": kind_of("text_classification", "tone", labels=["down", "up"], paired=False),
    "topics": kind_of("multilabel_classification", "topics", labels=["cat", "good"], paired=False),
    "same": kind_of("pair_classification", "same", labels=["down", "up"], paired=True),
    "count": kind_of("regression", "count", mean=1.0, deviation=2.0, paired=None),
    "answer": kind_of("extractive_qa", "answer", unanswerable=True, paired=True),
}


class Engine:
    """Heads that see nothing but `good` and `cat`: how many, or whether this word is one."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        self.rows += len(batch.rows)
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        good, cat = ((ids == number).sum(axis=1).astype(np.float32) for number in (GOOD, CAT))
        found: dict[str, NDArray[Any]] = {}
        for task, part in batch.tasks.items():
            if task in ("tags", "ner"):
                here = ids.reshape(-1)[part.index] == CAT
                columns = [here, ~here] if task == "tags" else [here, here & False, ~here]
                found[task] = np.stack(columns, axis=1).astype(np.float32) * 3
            elif task in ("tone", "same"):
                found[task] = np.stack([0.5 - 0 * good, good], axis=1)[part.index]
            elif task == "topics":
                found[task] = np.stack([cat - 0.5, good - 0.5], axis=1)[part.index]
            elif task == "count":
                found[task] = good[part.index][:, None]
            else:
                scores = np.where(ids == CAT, 5.0, 0.0)[..., None].repeat(2, axis=2)
                scores[:, 0] = 1.0
                scores[mask == 0] = -1e9
                found[task] = scores[part.index].astype(np.float32)
        return found


def answerer_of(**options: Any) -> tuple[Answerer, Engine]:
    engine = Engine()
    find = partial(find_words, language="en")
    return Answerer(TASKS, Predictor(TASKS, ENCODER, engine, pad=0, find_words=find, **options)), engine


texts = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)
pairs = st.tuples(texts.filter(lambda text: len(text) < 30), texts)


def words_of(text: str) -> list[str]:
    return list(find_words(text, language="en").words)


@given(st.lists(st.one_of(texts, pairs), min_size=1, max_size=5), st.integers(8, 300))
@settings(max_examples=40)
def test_a_word_that_a_head_ignores_scores_nothing(given_: list[Any], budget: int) -> None:
    answerer, _ = answerer_of(batch_tokens=budget)
    for item, answer in zip(given_, explain(answerer, given_), strict=True):
        tasks = answer["tasks"]
        first, second = (words_of(text) for text in (item if isinstance(item, tuple) else (item, "")))
        for task, decisive in (("tone", "good"), ("same", "good"), ("count", "good")):
            if task in tasks:
                explanation = tasks[task]["explanation"]
                assert explanation["method"] == "occlusion"
                assert len(explanation["words"]) == len(first)
                assert ("pair_words" in explanation) == isinstance(item, tuple)
                scored = [*explanation["words"], *explanation.get("pair_words", [])]
                for word, score in zip([*first, *second], scored, strict=True):
                    assert word == decisive or score == 0
        for label, explanation in tasks.get("topics", {}).get("explanations", {}).items():
            assert {word for word, score in zip(first, explanation["words"], strict=True) if score} == {label}
        for span in tasks.get("ner", {}).get("spans", []):
            scores = span["explanation"]["words"]
            assert [number for number, score in enumerate(scores) if score] == [span["words"][0]]
        if "answer" in tasks:
            explanation = tasks["answer"]["explanation"]
            assert not any(explanation["words"])
            assert {w for w, score in zip(second, explanation["pair_words"], strict=True) if score} <= {"cat"}
            # Of several equal cats one is found, and it is the one that carries the answer.
            if tasks["answer"]["answer"] and second.count("cat") == 1:
                assert explanation["pair_words"][second.index("cat")] > 0.5


@given(st.lists(st.one_of(texts, pairs), min_size=1, max_size=6))
@settings(max_examples=25)
def test_batched_or_one_by_one_is_the_same_and_the_answers_are_those_of_predict(given_: list[Input]) -> None:
    answerer, _ = answerer_of()
    together = explain(answerer, given_)
    assert together == [explain(answerer, [item])[0] for item in given_]
    assert together == answerer.predict(given_, explain=True)
    for answer, plain in zip(together, answerer.predict(given_), strict=True):
        json.dumps(answer, allow_nan=False)
        assert without_explanations(answer) == plain


def without_explanations(answer: Any) -> Any:
    extra = ("explanation", "explanations", "pair_offsets")
    if isinstance(answer, dict):
        return {key: without_explanations(value) for key, value in answer.items() if key not in extra}
    return [without_explanations(item) for item in answer] if isinstance(answer, list) else answer


def test_places_of_a_pair_s_words() -> None:
    answerer, _ = answerer_of()
    answer = explain(answerer, ("good", "the  cat."))
    assert [answer["text_pair"][start:stop] for start, stop in answer["pair_offsets"]] == ["the", "cat", "."]
    assert explain(answerer, "the cat").keys() == answerer.predict("the cat").keys()


def test_scores_are_the_fall_of_the_probability() -> None:
    answerer, _ = answerer_of()
    tasks = explain(answerer, "good good")["tasks"]
    up = [float(np.exp(n) / (np.exp(n) + np.exp(0.5))) for n in (2, 1)]
    assert tasks["tone"]["explanation"]["words"] == pytest.approx([up[0] - up[1]] * 2, abs=1e-4)
    assert tasks["count"]["explanation"]["words"] == [2.0, 2.0]  # a deviation of the scale each


def test_a_plain_tag_is_explained_only_when_asked_for() -> None:
    answerer, engine = answerer_of()
    assert "explanation" not in explain(answerer, "the cat sat", ["tags"])["tasks"]["tags"]
    assert engine.rows == 1
    tags = explain(answerer, "the cat sat", ["tags"], word=1)["tasks"]["tags"]
    assert tags["tags"] == ["other", "cat", "other"]
    assert [score > 0 for score in tags["explanation"]["words"]] == [False, True, False]
    assert explain(answerer, "the cat sat", ["tags"], word=0)["tasks"]["tags"]["explanation"]["words"] == [0, 0, 0]
    with pytest.raises(RunError, match="no word 3 to explain among 3: 'the cat sat'"):
        explain(answerer, "the cat sat", ["tags"], word=3)


def test_what_claims_nothing_costs_nothing() -> None:
    answerer, engine = answerer_of()
    answer = explain(answerer, "the dog sat", ["ner", "topics"])
    assert answer["tasks"]["ner"]["spans"] == answer["tasks"]["topics"]["labels"] == []
    assert engine.rows == 1


def test_a_long_text_costs_a_bounded_number_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "MOST", 10)
    answerer, engine = answerer_of()
    text = ["the"] * 95
    text[42] = "good"
    (answer,) = explain(answerer, [text], ["tone"])
    found = answer["tasks"]["tone"]["explanation"]
    windows = len(ENCODER.encode([Example(Text(tuple(text)), {})])[0].rows)
    assert engine.rows <= windows + 10 * 3  # a run of ten words is in three of the windows at most
    assert found["together"] == 10
    assert len(found["words"]) == 95
    # The fall is that of the ten words that were hidden together.
    assert len(set(found["words"][40:50])) == 1
    assert abs(found["words"][42]) > 0
    assert not any(found["words"][:40] + found["words"][50:])


@pytest.mark.parametrize("given_", ["good cat " * 30, ("good dog", "the cat sat " * 9), ""])
def test_by_portions_it_is_the_same_and_each_portion_is_small(given_: Input) -> None:
    answerer, engine = answerer_of()
    whole = explain(answerer, [given_])
    total, engine.rows, seen = engine.rows, 0, []
    for found in by_portions(answerer.predictor, given_, tokens=100):
        seen.append(engine.rows)
        if found is not None:
            assert [found] == whole
    assert engine.rows == total
    assert len(seen) > 5 or not given_
    windows = seen[0]  # those of the text itself, and a portion
    assert all(after - before <= 100 / 4 for before, after in zip([windows, *seen], seen, strict=False))
    assert list(by_portions(answerer.predictor, given_, tokens=10**9)) == whole


def test_a_kind_that_does_not_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(KINDS["text_classification"], "support")
    answerer, _ = answerer_of()
    with pytest.raises(RunError, match="task 'tone': answers of kind text_classification cannot be explained"):
        explain(answerer, "the cat")
    assert explain(answerer, "the cat", ["count"])["tasks"]["count"]["explanation"]["words"] == [0.0, 0.0]


def test_nothing_to_explain() -> None:
    answerer, _ = answerer_of()
    assert explain(answerer, []) == []
    assert explain(answerer, "")["tasks"]["tone"]["explanation"] == {"method": "occlusion", "words": []}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_token_belongs_to_its_word(name: str) -> None:
    encoder = TextEncoder(TOKENIZERS[name](), max_length=24)

    @given(words, st.one_of(st.none(), words))
    @settings(max_examples=40)
    def check(first: tuple[str, ...], second: tuple[str, ...] | None) -> None:
        example = Example(Text(first), {}, pair=None if second is None else Text(second))
        (encoded,) = encoder.encode([example])
        numbers = encoder.word_numbers(example)
        for row, owners in zip(encoded.rows, numbers, strict=True):
            assert len(owners) == len(row)
            assert (owners[row.word_positions] == row.words).all()
            assert owners.max(initial=-1) < len(first) + len(second or ())
            if second is not None:
                inside = owners[slice(*row.passage)]
                assert (inside >= len(first)).all()
                assert (owners >= len(first)).sum() == len(inside)
        seen = {int(number) for owners in numbers for number in owners} - {-1}
        if second is None and not any(row.truncated for row in encoded.rows):
            assert seen == set(range(len(first)))

    check()


def test_the_mask_token_is_used_where_there_is_one() -> None:
    tokenizer = TOKENIZERS["wordpiece"]()
    assert TextEncoder(tokenizer, max_length=24).mask == tokenizer.token_to_id("[UNK]")
    masked = type(tokenizer).from_str(tokenizer.to_str())
    masked.add_special_tokens(["[MASK]"])
    assert TextEncoder(masked, max_length=24).mask == masked.token_to_id("[MASK]")


@pytest.fixture(scope="module")
def run(trained: Trained) -> Run:
    return Run.load(trained.folder)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_answer_keeps_its_probability_also_where_pieces_share_their_place(name: str) -> None:
    encoder, kind = TextEncoder(TOKENIZERS[name](), max_length=24), TASKS["answer"]

    @given(words, st.integers(0, 999))
    @settings(max_examples=60)
    def check(passage: tuple[str, ...], seed: int) -> None:
        example = Example(Text(("who",)), {}, pair=Text(passage))
        (encoded,) = encoder.encode([example])
        rng = np.random.default_rng(seed)
        one, other = (
            [(row, rng.normal(scale=4, size=(1, len(row), 2)).astype(np.float32)) for row in encoded.rows]
            for _ in range(2)
        )
        found = kind.decode(one, example, encoded.spans)
        assert kind.support(one, example, encoded.spans, found) == pytest.approx([found.confidence], abs=1e-9)
        (support,) = kind.support(other, example, encoded.spans, found)
        assert 0 < support <= 1
        best = kind.decode(other, example, encoded.spans)
        assert support <= best.confidence + 1e-9 or not best.label  # type: ignore[operator]

    check()


class TestRun:
    INPUTS: tuple[Any, ...] = (
        "Anna sat in Paris, good film.",
        "",
        ["tom", "runs", "\U0001f468\u200d\U0001f469", ""],
        ("where is anna", "anna sat in paris 3"),
        ("", ""),
        [WORDS[number % len(WORDS)] for number in range(120)],
        ("where is tom", " ".join([*WORDS, *WORDS, "tom", "is", "in", "london"])),
    )

    @pytest.mark.parametrize("task", ALL_TASKS)
    def test_the_support_of_a_prediction_is_its_confidence(self, trained: Trained, run: Run, task: str) -> None:
        """Without anything hidden: the two are one number, however each is computed."""
        kind = run.kinds[task]
        examples = [*map(run.predictor.example, self.INPUTS), *trained.loop.corpus.splits["test"]]
        checked = 0
        for reading in run.heads("test")[1].readings(examples):
            if task not in reading.windows:
                continue
            windows, spans = reading.windows[task], reading.encoded.spans
            found = kind.decode(windows, reading.example, spans)
            support = kind.support(windows, reading.example, spans, found)
            if task == "likeness":
                assert support == pytest.approx([found.label])
            elif task == "ner":
                shown = kind.render(found, reading.example)["spans"]
                assert [round(float(value), 4) for value in support] == [span["confidence"] for span in shown]
            elif task == "topics":
                assert len(support) == len(found.label)  # type: ignore[arg-type]
                assert all(value > 0.5 for value in support)
            else:
                assert support == pytest.approx(np.atleast_1d(np.asarray(found.confidence)), abs=1e-9)
            checked += 1
        assert checked > 20

    def test_batched_or_one_by_one(self, run: Run) -> None:
        together = run.predict(list(self.INPUTS), explain=True)
        for item, answer in zip(self.INPUTS, together, strict=True):
            assert_close(answer, explain(run, [item])[0])
        json.dumps(together, allow_nan=False)

    def test_every_kind_is_explained(self, run: Run) -> None:
        answer = explain(run, ("where is anna", "anna sat in paris 3"))
        assert all(len(answer["tasks"][task]["explanation"]["words"]) == 3 for task in ("same", "likeness", "answer"))
        answer = explain(run, "anna is good", word=0)
        assert all(len(answer["tasks"][task]["explanation"]["words"]) == 3 for task in ("pos", "tone"))


def assert_close(one: Any, other: Any) -> None:
    """The same JSON, numbers but for what the width of a batch does to a float."""
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_close(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_close(left, right)
    else:
        assert one == (pytest.approx(other, abs=2e-4) if isinstance(one, float) else other)


def test_the_word_that_decides_comes_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    neutral = [word for word in WORDS if word not in ("good", "great", "bad", "awful")]
    records = []
    for number in range(160):
        sentence = [str(word) for word in rng.choice(neutral, size=6)]
        sentence[int(rng.integers(6))] = ("good", "great", "bad", "awful")[number % 4]
        records.append({"words": sentence, "tone": ("up", "up", "down", "down")[number % 4]})
    files = {
        "train": write_jsonl(tmp_path / "train.jsonl", records[:120]),
        "dev": write_jsonl(tmp_path / "dev.jsonl", records[120:]),
    }
    run = palmette.train(
        {
            "trunk": str(tiny_trunk(tmp_path / "trunk")),
            "tasks": {"tone": {"kind": "text_classification"}},
            "sources": [{"format": "jsonl", **files, "text": "words", "labels": {"tone": "tone"}}],
            "training": {"epochs": 12, "learning_rate": 3e-3, "head_learning_rate": 1e-2, "precision": "fp32"}
            | {"batch_tokens": 256},
        },
        tmp_path / "run",
    )
    first = 0
    for record, answer in zip(
        records[120:], run.predict([r["words"] for r in records[120:]], explain=True), strict=True
    ):
        assert answer["tasks"]["tone"]["label"] == record["tone"]
        found = answer["tasks"]["tone"]["explanation"]["words"]
        first += record["words"][int(np.argmax(found))] in ("good", "great", "bad", "awful")
    assert first >= 38  # of 40


@pytest.mark.parametrize("module", ["palmette.explain", "palmette.pipelines", "palmette.spacy_component"])
def test_importing_needs_neither_torch_nor_transformers(module: str) -> None:
    # spaCy imports torch by itself where it finds it, so that nobody may find it.
    code = f"import sys; sys.modules['torch'] = sys.modules['transformers'] = None; import {module}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
