"""The callables give what Hugging Face's own pipelines give: the same keys, types and nesting, for the same inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import palmette
from conftest import Trained
from fakes import WORDS, tiny_tokenizer, tiny_vocabulary
from palmette.errors import RunError
from palmette.kinds.sequence_labeling import write_iob2
from palmette.run import Run
from palmette.types import Example, Prediction, Text
from strategies import spans

TEXTS = ["anna sat in paris", "the dog runs fast", "tom"]


@pytest.fixture(scope="module")
def run(trained: Trained) -> Run:
    return Run.load(trained.folder)


def theirs(task: str, labels: list[str], **options: Any) -> Any:
    """Hugging Face's pipeline over a tiny model of random weights, with our tokenizer."""
    import torch
    import transformers
    from transformers import BertConfig, PreTrainedTokenizerFast

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tiny_vocabulary()),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        initializer_range=0.4,  # so that its answers vary
    )
    tokenizer = tiny_tokenizer()
    tokenizer.no_padding()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",  # noqa: S106
        pad_token="[PAD]",  # noqa: S106
        cls_token="[CLS]",  # noqa: S106
        sep_token="[SEP]",  # noqa: S106
    )
    name = {"token-classification": "Token", "text-classification": "Sequence"}[task]
    model = getattr(transformers, f"BertFor{name}Classification")(config).eval()
    return transformers.pipeline(task, model=model, tokenizer=fast, device="cpu", **options)


def form(value: Any) -> Any:
    """Nesting, keys in their order, and types; a list of like things is the form of one."""
    if isinstance(value, list):
        forms = [form(item) for item in value]
        assert all(one == forms[0] for one in forms), forms
        return forms[:1]
    if isinstance(value, dict):
        return {key: form(item) for key, item in value.items()}
    return float if hasattr(value, "dtype") else type(value)  # theirs are at times numbers of NumPy


class TestTokens:
    def test_words_have_the_form_of_their_tokens(self, run: Run) -> None:
        pipe, other = palmette.pipeline(run, "pos"), theirs("token-classification", ["D", "N"])
        inputs: Any
        for inputs in (TEXTS[0], TEXTS, TEXTS[:1]):
            ours, found = pipe(inputs), other(inputs)
            assert form(ours) == form(found)
            json.dumps(ours)
        # Every word of this text is one of their tokens, so that places and counts are the same as well.
        places = ("index", "word", "start", "end")
        assert [[one[key] for key in places] for one in pipe(TEXTS[0])] == [
            [one[key] for key in places] for one in other(TEXTS[0])
        ]

    def test_a_generator_is_answered_as_it_is_read(self, run: Run) -> None:
        pipe = palmette.pipeline(run, "pos")
        given_ = iter(TEXTS * 400)
        found = pipe(given_)
        assert [one["word"] for one in next(found)] == TEXTS[0].split()
        assert list(given_), "not all of it is read for the first answer"
        assert len(list(found)) < len(TEXTS) * 400
        assert pipe({"text": TEXTS[0]}) == pipe(TEXTS[0])

    def test_words_are_ours_where_theirs_are_subwords(self, run: Run) -> None:
        text = "Xyzzy sat."
        assert [one["word"] for one in palmette.pipeline(run, "pos")(text)] == ["Xyzzy", "sat", "."]
        found = [one["word"] for one in theirs("token-classification", ["D", "N"])(text)]
        assert found == ["x", "##y", "##z", "##z", "##y", "sat", "."]

    def test_groups_have_the_form_of_theirs(self, run: Run) -> None:
        labels = ["O", "B-PER", "I-PER", "B-LOC"]
        other = theirs("token-classification", labels, aggregation_strategy="simple")
        pipe = palmette.pipeline(run, "pos", aggregation_strategy="simple")
        text = " ".join(WORDS)
        assert form(pipe(text)) == form(other(text))
        assert form(pipe([text, text])) == form(other([text, text]))

    @pytest.mark.parametrize("task", ["ner", "pos"])
    def test_groups_are_cut_as_theirs_are(self, run: Run, task: str) -> None:
        """The same tags make the same groups: theirs are what their code makes of our words, tags and scores."""
        other = theirs("token-classification", ["O"])
        pipe = palmette.pipeline(run, task)
        tags = spans().map(lambda drawn: write_iob2(drawn[1], drawn[0]))
        plain = st.lists(st.sampled_from(["N", "D", "O"]), max_size=12).map(tuple)

        @given(tags if task == "ner" else plain, st.integers(0, 99))
        @settings(max_examples=100)
        def check(drawn: tuple[str, ...], seed: int) -> None:
            scores = tuple(map(float, np.random.default_rng(seed).random(len(drawn))))
            text = Text(tuple(f"w{number}" for number in range(len(drawn))))
            entities = [
                {"entity": tag, "score": score, "word": word, "start": start, "end": end}
                for tag, score, word, (start, end) in zip(drawn, scores, text.words, text.spans, strict=True)
            ]
            groups = [group for group in other.group_entities(entities) if group["entity_group"] != "O"]
            ours = pipe._groups(Example(text, {}), Prediction(drawn, scores))
            keys = ("entity_group", "start", "end")
            assert [[g[key] for key in keys] for g in ours] == [[g[key] for key in keys] for g in groups]
            assert [g["score"] for g in ours] == pytest.approx([g["score"] for g in groups])
            assert all(text.string[g["start"] : g["end"]] == g["word"] for g in ours)

        check()

    def test_spans_are_the_groups(self, run: Run) -> None:
        text = "Anna sat in Paris. Tom Tom runs."
        spans = run.predict(text, tasks=["ner"])["tasks"]["ner"]["spans"]
        groups = palmette.pipeline(run, "ner")(text, aggregation_strategy="simple")
        assert [(s["label"], s["start"], s["end"], s["text"]) for s in spans] == [
            (g["entity_group"], g["start"], g["end"], g["word"]) for g in groups
        ]
        assert spans

    def test_words_may_be_given(self, run: Run) -> None:
        assert palmette.pipeline(run, "pos")([["anna", "sat"]]) == palmette.pipeline(run, "pos")(["anna sat"])

    def test_wrong_options(self, run: Run) -> None:
        with pytest.raises(RunError, match="aggregation_strategy: expected none or simple, found 'max'"):
            palmette.pipeline(run, "pos", aggregation_strategy="max")("anna")
        with pytest.raises(RunError, match="a pipeline of task 'pos' has no such option: top_k"):
            palmette.pipeline(run, "pos", top_k=2)


PAIR = {"text": "anna sat", "text_pair": "the dog"}


class TestTexts:
    @pytest.mark.parametrize("options", [{}, {"top_k": None}, {"top_k": 1}, {"top_k": 2}])
    @pytest.mark.parametrize("early", [False, True])
    def test_the_form_is_theirs(self, run: Run, options: dict[str, Any], *, early: bool) -> None:
        other = theirs("text-classification", ["down", "up"], **(options if early else {}))
        inputs: Any
        for task, many in (("tone", (TEXTS[0], TEXTS, TEXTS[:1])), ("same", (PAIR, [PAIR, PAIR]))):
            pipe = palmette.pipeline(run, task, **(options if early else {}))
            for inputs in many:
                call = {} if early else options
                ours, found = pipe(inputs, **call), other(inputs, **call)
                assert form(ours) == form(found)
                assert [len(one) for one in ours] == [len(one) for one in found]
                json.dumps(ours)

    def test_scores_are_the_distribution(self, run: Run) -> None:
        for text in ("good", "the cat sat", ""):
            (found,) = palmette.pipeline(run, "tone")(text)
            assert found["label"] == run.predict(text)["tasks"]["tone"]["label"]
            every = palmette.pipeline(run, "tone", top_k=None)([text])[0]
            assert every[0] == found
            assert {one["label"] for one in every} == {"up", "down"}
            assert sum(one["score"] for one in every) == pytest.approx(1)
            assert every[0]["score"] >= every[1]["score"]

    def test_members_of_a_set_have_a_probability_each(self, run: Run) -> None:
        for text in ("the cat and the dog", "film"):
            every = palmette.pipeline(run, "topics")(text, top_k=None)
            chosen = run.predict(text)["tasks"]["topics"]["labels"]
            assert sorted(one["label"] for one in every if one["score"] > 0.5) == chosen
            assert len(every) == 3

    def test_a_number_is_the_score_of_its_task(self, run: Run) -> None:
        found = palmette.pipeline(run, "likeness")(PAIR)
        assert found["label"] == "likeness"
        value = run.predict(("anna sat", "the dog"))["tasks"]["likeness"]["value"]
        assert found["score"] == pytest.approx(value, abs=1e-4)

    @pytest.mark.parametrize("options", [{}, {"top_k": None}, {"top_k": 1}])
    def test_objects_lists_of_them_and_generators_have_the_form_of_theirs(
        self, run: Run, options: dict[str, Any]
    ) -> None:
        pipe, other = palmette.pipeline(run, "tone"), theirs("text-classification", ["down", "up"])
        texts = [{"text": text} for text in TEXTS]
        for inputs in (texts[0], texts):
            assert form(pipe(inputs, **options)) == form(other(inputs, **options))
        assert pipe(texts, **options) == pipe(TEXTS, **options)
        stream, theirs_ = (asked((text for text in TEXTS), **options) for asked in (pipe, other))
        assert isinstance(stream, Iterator)
        found = list(stream)
        assert found == pipe(TEXTS, **options)
        assert form(found) == form(list(theirs_))

    @pytest.mark.parametrize("wrong", [0, -1, "all"])
    def test_wrong_top_k(self, run: Run, wrong: Any) -> None:
        with pytest.raises(RunError, match="top_k: expected a number from 1"):
            palmette.pipeline(run, "tone")("a", top_k=wrong)

    def test_inputs_that_the_task_does_not_take(self, run: Run) -> None:
        with pytest.raises(RunError, match="none of the tasks tone takes a pair"):
            palmette.pipeline(run, "tone")(PAIR)
        with pytest.raises(RunError, match=r"the key text, and text_pair for a pair, found \{'txt': 'a'\}"):
            palmette.pipeline(run, "tone")({"txt": "a"})


class TestQuestions:
    """transformers 5 has no such pipeline any more; this is the documented output of those before."""

    CONTEXT = "anna sat in paris on the mat"

    def test_the_form(self, run: Run) -> None:
        pipe = palmette.pipeline(run, "answer")
        asked = {"question": "where is anna", "context": self.CONTEXT}
        found = pipe(asked)
        assert list(found) == ["score", "start", "end", "answer"]
        assert [type(value) for value in found.values()] == [float, int, int, str]
        assert found["answer"] == self.CONTEXT[found["start"] : found["end"]]
        near = {**found, "score": pytest.approx(found["score"], abs=1e-6)}  # two in a batch differ in the last digits
        assert pipe([asked, asked]) == [near, near]
        assert list(pipe(one for one in [asked, asked])) == [near, near]
        assert pipe(question=asked["question"], context=asked["context"]) == near
        assert pipe(question=[asked["question"]] * 2, context=self.CONTEXT) == [near, near]
        assert pipe(question=[asked["question"]] * 2, context=[self.CONTEXT] * 2) == [near, near]
        plain = run.predict((asked["question"], asked["context"]))["tasks"]["answer"]
        assert (plain["answer"] or "") == found["answer"]
        assert plain["confidence"] == pytest.approx(found["score"], abs=1e-4)

    def test_no_answer_is_empty(self, run: Run) -> None:
        found = palmette.pipeline(run, "answer")(question="where", context="")
        assert (found["answer"], found["start"], found["end"]) == ("", 0, 0)

    @pytest.mark.parametrize("wrong", ["where", ["where"], {"question": "where"}])
    def test_wrong_inputs(self, run: Run, wrong: Any) -> None:
        with pytest.raises(RunError, match="keys question and context"):
            palmette.pipeline(run, "answer")(wrong)
        with pytest.raises(RunError, match="expected question and context"):
            palmette.pipeline(run, "answer")(question="where")


def test_a_folder_or_what_was_loaded_from_it(trained: Trained, run: Run) -> None:
    for path in (trained.folder, str(trained.folder)):
        assert palmette.pipeline(path, "ner")(TEXTS) == palmette.pipeline(run, "ner")(TEXTS)


def test_an_empty_list_is_one(run: Run) -> None:
    assert [palmette.pipeline(run, task)([]) for task in run.kinds] == [[] for _ in run.kinds]


def test_what_has_no_pipeline(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no task 'nonsense' in this model"):
        palmette.pipeline(run, "nonsense")
    with pytest.raises(RunError, match="is not a run folder"):
        palmette.pipeline(tmp_path, "ner")


def test_a_kind_without_a_counterpart(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palmette.pipelines._FORMS", ())
    with pytest.raises(RunError, match="task 'pos': there is no pipeline for the kind sequence_labeling; use predict"):
        palmette.pipeline(run, "pos")
