"""Texts in, answers out: each input gets its own answer whatever it is batched with, and nothing is left out."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fakes import WORDS, tiny_encoder
from palmette.answering import Answerer
from palmette.batching import Batch
from palmette.config import TaskConfig
from palmette.errors import RunError
from palmette.kinds import KINDS, AnyKind
from palmette.predictor import Input, Predictor
from palmette.types import Answer, Example, Prediction, Text
from palmette.words import find_words
from strategies import raw_texts, words

ENCODER = tiny_encoder(max_length=24)
TAGS = ("cat", "other", "the")


def kind_of(name: str, task: str, **state: Any) -> AnyKind:
    return KINDS[name](task, TaskConfig(kind=name), state)


TASKS: dict[str, AnyKind] = {
    "tags": kind_of("sequence_labeling", "tags", labels=list(TAGS), paired=False),
    "tone": kind_of("text_classification", "tone", labels=["long", "short"], paired=False),
    "same": kind_of("pair_classification", "same", labels=["long", "short"], paired=True),
    "size": kind_of("regression", "size", mean=0.0, deviation=1.0, paired=None),
    "answer": kind_of("extractive_qa", "answer", unanswerable=True, paired=True),
}


class Engine:
    """Answers that follow from a row alone, so that what an input is batched with cannot matter.

    A word is tagged by its first subword; a text is long or short by its tokens; the answer is the first `cat`.
    """

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.cat, self.the = (ENCODER.tokenizer.token_to_id(word) for word in ("cat", "the"))

    def __call__(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        self.batches.append(batch)
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        found: dict[str, NDArray[Any]] = {}
        for task, part in batch.tasks.items():
            assert not part.targets
            if task == "tags":
                first = ids.reshape(-1)[part.index]
                number = np.select([first == self.cat, first == self.the], [0, 2], 1)
                found[task] = np.eye(3, dtype=np.float32)[number] * 9
            elif task == "answer":
                scores = np.zeros((*ids.shape, 2), dtype=np.float32)
                scores[:, 0] = 3.0
                scores[ids == self.cat] = 9.0
                scores[mask == 0] = -1e9
                found[task] = scores[part.index]
            else:
                length = mask.sum(axis=1)[part.index].astype(np.float32)
                found[task] = length[:, None] if task == "size" else np.stack([length - 10, 10 - length], axis=1)
        return found


def predictor_of(**options: Any) -> tuple[Predictor, Engine]:
    engine = Engine()
    return Predictor(TASKS, ENCODER, engine, pad=0, find_words=partial(find_words, language="en"), **options), engine


texts = st.lists(st.sampled_from(WORDS), max_size=50).map(" ".join)
inputs: st.SearchStrategy[Input] = st.one_of(
    texts, st.lists(st.sampled_from(WORDS), max_size=40), st.tuples(texts.filter(lambda t: len(t) < 30), texts)
)


@given(st.lists(inputs, min_size=1, max_size=12), st.integers(8, 200), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_an_input_s_answer_does_not_depend_on_its_batch(given_: list[Input], budget: int, random: Any) -> None:
    predictor, engine = predictor_of(batch_tokens=budget)
    examples = [predictor.example(item) for item in given_]
    together = predictor.answer(examples)
    assert all(
        len(batch.rows) == 1 or batch.inputs["input_ids"].size <= budget for batch in engine.batches
    )  # a longer row stands alone
    alone = [predictor.answer([example])[0] for example in examples]
    assert [plain(answer) for answer in together] == [plain(answer) for answer in alone]
    order = list(range(len(examples)))
    random.shuffle(order)
    shuffled = predictor.answer([examples[number] for number in order])
    assert [plain(answer) for answer in shuffled] == [plain(alone[number]) for number in order]


def plain(answer: Mapping[str, Prediction]) -> dict[str, Any]:
    return {task: (found.label, repr(found.confidence)) for task, found in answer.items()}


@given(st.lists(inputs, max_size=8))
@settings(max_examples=60)
def test_every_task_that_takes_an_input_answers_every_word_of_it(given_: list[Input]) -> None:
    predictor, _ = predictor_of()
    examples = [predictor.example(item) for item in given_]
    for example, answer in zip(examples, predictor.answer(examples), strict=True):
        assert list(answer) == [task for task, kind in TASKS.items() if kind.takes(example)]
        if example.pair is None:
            assert answer["tags"].label == tuple(w if w in ("cat", "the") else "other" for w in example.text.words)
        else:
            found = answer["answer"].label
            assert isinstance(found, tuple)
            assert bool(found) == ("cat" in example.pair.words)
            if found:
                assert isinstance(found[0], Answer)
                assert found[0].text == "cat"


@given(st.lists(st.one_of(raw_texts, words.map(list)), max_size=6))
@settings(max_examples=60)
def test_any_text_is_answered_and_rendered_as_json(given_: list[Input]) -> None:
    predictor, _ = predictor_of()
    answers = list(predictor.stream(given_))
    assert len(answers) == len(given_)
    for item, (example, predictions) in zip(given_, answers, strict=True):
        rendered = json.loads(json.dumps(predictor.render(example, predictions), allow_nan=False))
        if isinstance(item, str):
            assert rendered["text"] == item
        else:
            assert rendered["words"] == list(item)
        assert [rendered["text"][start:stop] for start, stop in rendered["offsets"]] == rendered["words"]
        assert len(rendered["tasks"]["tags"]["tags"]) == len(rendered["words"])


def test_half_a_surrogate_pair_is_answered() -> None:
    predictor, _ = predictor_of()
    for item in ("so \ud83d good", ["so", "\ud83d", "good"]):
        ((example, answer),) = predictor.stream([item])
        rendered = predictor.render(example, answer)
        json.dumps(rendered, ensure_ascii=False).encode()
        assert rendered["words"] == ["so", "\ufffd", "good"]


def test_a_stream_is_answered_in_order_and_read_in_pieces() -> None:
    predictor, _ = predictor_of()
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "the cat " * (read % 7) + str(read)

    stream = predictor.stream(endless())
    for number in range(1, 1500):
        example, answer = next(stream)
        assert example.text.words[-1] == str(number)
        found = answer["tags"].label
        assert isinstance(found, tuple)
        assert len(found) == 2 * (number % 7) + 1
    assert read < 3000


class Divided:
    """A predictor that may answer two chunks at the same time, and what its engines were asked."""

    def __init__(self) -> None:
        self.whole, self.part = Engine(), Engine()
        self.asked: list[int] = []

        def divide(parts: int) -> Engine:
            self.asked.append(parts)
            return self.part

        find = partial(find_words, language="en")
        self.predictor = Predictor(TASKS, ENCODER, self.whole, pad=0, find_words=find, divide=divide)


def numbered(count: int) -> list[str]:
    return ["the cat " * (number % 7) + str(number) for number in range(count)]


def test_a_long_stream_is_divided_and_answered_in_order() -> None:
    divided, plain = Divided(), predictor_of()[0]
    texts = numbered(2100)
    found = list(divided.predictor.stream(texts))
    assert found == list(plain.stream(texts))
    assert divided.part.batches
    assert not divided.whole.batches


def test_a_short_stream_is_not_divided() -> None:
    divided = Divided()
    assert len(list(divided.predictor.stream(numbered(512)))) == 512
    assert not divided.asked


@pytest.mark.parametrize("count", [0, 1, 512, 700, 1024, 1500, 2048])
def test_what_was_read_before_an_error_is_answered(count: int) -> None:
    def failing() -> Iterator[str]:
        yield from numbered(count)
        raise OSError("the disk is gone")

    answers: list[Any] = []
    with pytest.raises(OSError, match="the disk is gone"):
        answers.extend(Divided().predictor.stream(failing()))
    assert [example.text.string for example, _ in answers] == numbered(count)[: count // 512 * 512]


def test_an_error_in_a_chunk_ends_the_stream_after_the_answers_before_it() -> None:
    divided = Divided()
    texts: list[Any] = [*numbered(1500), 7, *numbered(100)]
    answers: list[Any] = []
    with pytest.raises(RunError, match="expected a text"):
        answers.extend(divided.predictor.stream(texts))
    assert len(answers) == 1024


def test_a_divided_stream_that_is_left_computes_no_more() -> None:
    divided, read = Divided(), 0

    def endless() -> Iterator[str]:
        nonlocal read
        for text in cycle(numbered(600)):
            read += 1
            yield text

    stream = divided.predictor.stream(endless())
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    assert read <= 4 * 512
    assert not [thread for thread in threading.enumerate() if "palmette-stream" in thread.name]


def test_a_subset_of_tasks_in_the_order_asked_for() -> None:
    predictor, engine = predictor_of()
    (answer,) = predictor.answer([predictor.example("the cat")], ["tone", "tags"])
    assert list(answer) == ["tone", "tags"]
    assert all(set(batch.tasks) == {"tone", "tags"} for batch in engine.batches)
    assert predictor.answer([predictor.example("the cat")], ["same"]) == [{}]


def test_an_unknown_task_is_named() -> None:
    predictor, _ = predictor_of()
    with pytest.raises(RunError, match="no task 'nonsense' in this model; it has tags, tone"):
        predictor.choose(["nonsense"])


@pytest.mark.parametrize("wrong", [3, None, ["a", 1], ("a", "b", "c"), {"text": "a"}, ("a",), b"a"])
def test_what_is_not_an_input_is_refused(wrong: Any) -> None:
    predictor, _ = predictor_of()
    with pytest.raises(RunError, match="expected a text, a list of words or a pair"):
        predictor.example(wrong)


@pytest.mark.parametrize("wrong", [None, 5, {"text": "a"}, b"a", [None], [{"text": "a"}], (("a", "b"), "c")])
def test_what_is_asked_for_is_a_text_a_pair_or_a_list(wrong: Any) -> None:
    predictor, engine = predictor_of()
    for explain in (False, True):
        with pytest.raises(RunError, match=r"expected a text, .*found .*(None|5|text|b'a'|'c')"):
            Answerer(TASKS, predictor).predict(wrong, explain=explain)
    assert not engine.batches


def test_a_stream_of_one_text_is_not_one_of_its_letters() -> None:
    with pytest.raises(RunError, match=r"expected a text, a pair .* found 'the cat'"):
        list(predictor_of()[0].stream("the cat"))


@pytest.mark.parametrize("wrong", ["tags", 5, iter(["tags"])])
def test_tasks_are_a_list(wrong: Any) -> None:
    with pytest.raises(RunError, match="tasks: expected a list of names, found"):
        Answerer(TASKS, predictor_of()[0]).predict("the cat", tasks=wrong)
    with pytest.raises(RunError, match=r"no task \['tags'\]"):
        Answerer(TASKS, predictor_of()[0]).predict("the cat", tasks=[["tags"]])  # type: ignore[list-item]


def test_pairs_may_be_words_or_text() -> None:
    predictor, _ = predictor_of()
    example = predictor.example((["the", "cat"], "sat  on"))
    assert example.text == Text(words=("the", "cat"))
    assert example.pair == Text(words=("sat", "on"), raw="sat  on", offsets=((0, 3), (5, 7)))


def test_evaluation_answers_exactly_the_labelled_tasks() -> None:
    predictor, _ = predictor_of()
    examples = [
        Example(Text(("the", "cat")), {"tags": ("the", "cat")}),
        Example(Text(("the", "cat")), {"tone": "long", "size": 1.0}),
        Example(Text(("the",)), {}),
        Example(Text(("the",)), {"answer": ()}, pair=Text(("cat",))),
    ]
    answers = predictor.answer_labelled(examples)
    assert [set(answer) for answer in answers] == [set(example.labels) for example in examples]


def test_no_input_is_no_answer() -> None:
    predictor, _ = predictor_of()
    assert predictor.answer([]) == []
    assert list(predictor.stream([])) == []
