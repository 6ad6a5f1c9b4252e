"""A finished run: loaded, it answers as it did before it was saved; any input gets its answers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import palmette
from conftest import Trained
from fakes import ALL_TASKS, WORDS, write_jsonl
from palmette.config import Config
from palmette.errors import RunError
from palmette.predictor import Input
from palmette.run import Run
from palmette.types import Example, Prediction

TEXT_TASKS = {"pos", "ner", "tone", "topics"}
PAIR_TASKS = {"same", "likeness", "answer"}
LONG = [WORDS[number % len(WORDS)] for number in range(300)]

INPUTS: list[Input] = [
    "Anna sat on the mat.",
    "",
    ["tom", "runs"],
    [],
    ("where is anna", "anna sat in paris 3"),
    (["where", "is", "tom"], "the dog"),
    ("", ""),
    LONG,
    " ".join(LONG),
    ("where is tom", " ".join([*LONG, "tom", "is", "in", "london"])),
]


@pytest.fixture(scope="module")
def run(trained: Trained) -> Run:
    return Run.load(trained.folder)


def comparable(answers: Sequence[Mapping[str, Prediction]]) -> list[dict[str, tuple[Any, Any]]]:
    """Predictions that == compares: NaN (regression has no confidence) equals itself."""

    def plain(value: float | tuple[float, ...]) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    return [{task: (found.label, plain(found.confidence)) for task, found in answer.items()} for answer in answers]


@pytest.mark.parametrize("task", ALL_TASKS)
def test_a_loaded_run_answers_exactly_as_before_saving(trained: Trained, run: Run, task: str) -> None:
    examples = [run.predictor.example(given) for given in INPUTS] + trained.loop.corpus.splits["test"]
    trained.loop.bare.eval()
    before = comparable(trained.loop.learner.predictor.answer(examples, [task]))
    after = comparable(run.predictor.answer(examples, [task]))
    assert before == after
    assert sum(task in answer for answer in after) > 20


def test_loading_twice_gives_the_same_answers(trained: Trained, run: Run) -> None:
    assert palmette.load(str(trained.folder)).predict(INPUTS) == run.predict(INPUTS)


def test_evaluating_a_loaded_run_gives_the_stored_metrics(trained: Trained, run: Run) -> None:
    stored = json.loads((trained.folder / "metrics.json").read_text())
    for split in ("dev", "test"):
        assert run.evaluate(split)["tasks"] == stored[split]


def test_the_batch_size_does_not_matter(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.load(trained.folder)
    examples = [run.predictor.example(given) for given in INPUTS] + trained.loop.corpus.splits["test"]
    found = []
    for batch_tokens in (1, 64, 200, 4096, 10**6):
        monkeypatch.setattr(run.predictor, "batch_tokens", batch_tokens)
        found.append(run.answer(examples))
    for other in found[1:]:
        for expected, answer in zip(found[0], other, strict=True):
            assert answer.keys() == expected.keys()
            for task, prediction in answer.items():
                if task == "likeness":
                    assert prediction.label == pytest.approx(expected[task].label, abs=1e-4)
                    continue
                assert prediction.label == expected[task].label
                assert prediction.confidence == pytest.approx(expected[task].confidence, abs=1e-5)


def test_order_and_neighbours_do_not_matter(run: Run) -> None:
    together = run.predict(INPUTS)
    backwards = run.predict(INPUTS[::-1])[::-1]
    assert [answer["words"] for answer in together] == [answer["words"] for answer in backwards]
    for one, other in zip(together, backwards, strict=True):
        assert {t: a.get("tags") for t, a in one["tasks"].items()} == {
            t: a.get("tags") for t, a in other["tasks"].items()
        }


def test_some_of_the_tasks(run: Run) -> None:
    every = run.predict(INPUTS)
    some = run.predict(INPUTS, tasks=["ner", "answer"])
    for all_answers, answers in zip(every, some, strict=True):
        assert answers["tasks"].keys() == {"ner", "answer"} & all_answers["tasks"].keys()
        for task, answer in answers["tasks"].items():
            assert answer.get("tags") == all_answers["tasks"][task].get("tags")
    with pytest.raises(RunError, match="none of the tasks answer takes one text: 'tom runs'"):
        run.predict("tom runs", tasks=["answer"])
    assert run.predict("tom runs", tasks=[])["tasks"] == {}


def test_an_unknown_task_is_named(run: Run) -> None:
    with pytest.raises(RunError, match="no task 'parse' in this model; it has pos, ner"):
        run.predict("tom runs", tasks=["parse"])


def test_texts_and_pairs_get_the_tasks_that_take_them(run: Run) -> None:
    for given, answer in zip(INPUTS, run.predict(INPUTS), strict=True):
        assert answer["tasks"].keys() == (PAIR_TASKS if isinstance(given, tuple) else TEXT_TASKS)


def test_one_text_gives_one_answer_and_a_list_gives_a_list(run: Run) -> None:
    assert run.predict("tom runs")["text"] == "tom runs"
    assert run.predict(["tom runs"])[0]["text"] == "tom runs"
    assert run.predict(("tom", "runs"))["text_pair"] == "runs"
    assert run.predict([]) == []


def test_words_in_words_out(run: Run) -> None:
    given = [["don't", "U.S.A.", "New York", "…"], LONG, ["tom"], []]
    for words, answer in zip(given, run.predict(given), strict=True):
        assert answer["words"] == words
        assert len(answer["tasks"]["pos"]["tags"]) == len(answer["tasks"]["ner"]["tags"]) == len(words)
        assert [answer["text"][start:end] for start, end in answer["offsets"]] == words


def test_offsets_point_into_the_text_as_typed(run: Run) -> None:
    text = "  Anna\tsat in  Paris,\nnot London!  "
    answer = run.predict(text)
    assert answer["text"] == text
    assert [text[start:end] for start, end in answer["offsets"]] == answer["words"]
    assert answer["words"] == ["Anna", "sat", "in", "Paris", ",", "not", "London", "!"]
    for span in answer["tasks"]["ner"]["spans"]:
        assert text[span["start"] : span["end"]] == span["text"]


def test_what_was_read_in_part_is_said(run: Run) -> None:
    for first, cut in (("where is anna", False), ("where is anna " * 200, True)):
        answers = run.predict((first, "anna sat in paris"))["tasks"]
        assert answers
        assert {"truncated" in found for found in answers.values()} == {cut}
    assert "truncated" not in run.predict("anna sat " * 400)["tasks"]["pos"], "it is read in windows"


def test_a_text_longer_than_the_trunk_gets_a_tag_for_every_word(run: Run, trained: Trained) -> None:
    example = run.predictor.example(LONG)
    assert len(trained.loop.learner.predictor.encoder.encode([example])[0].rows) > 3
    answer = run.predict([LONG])[0]["tasks"]
    assert len(answer["pos"]["tags"]) == len(answer["pos"]["confidence"]) == len(LONG)
    # The same words in the same context: what a window decides does not depend on where the text was cut.
    assert set(answer["pos"]["tags"]) <= {"N", "D"}


def test_an_answer_behind_the_first_window_can_be_found(run: Run) -> None:
    passage = " ".join([*LONG, "anna", "sat", "in", "paris", "1"])
    answer = run.predict(("where is anna", passage))["tasks"]["answer"]
    if answer["answer"] is not None:
        assert passage[answer["start"] : answer["end"]] == answer["answer"]


@pytest.mark.parametrize("token", ["x" * 100_000, "(." * 50_000, "é" * 100_000], ids=["word", "signs", "accents"])
def test_a_token_of_100_kb(run: Run, token: str) -> None:
    typed, listed = run.predict([f"tom {token} runs", ["tom", token, "runs"]], tasks=["pos", "ner", "tone"])
    assert listed["words"] == ["tom", token, "runs"]
    assert len(listed["tasks"]["pos"]["tags"]) == 3
    assert len(typed["tasks"]["pos"]["tags"]) == len(typed["words"])
    assert [typed["text"][start:end] for start, end in typed["offsets"]] == typed["words"]


@pytest.mark.parametrize("given", [3, None, ("a", "b", "c"), ["tom", 3], {"text": "tom"}], ids=repr)
def test_an_input_that_is_none_is_refused(run: Run, given: Any) -> None:
    with pytest.raises(RunError, match="expected a text, a list of words or a pair"):
        list(run.stream([given]))


def test_a_stream_reads_no_further_than_it_must(run: Run) -> None:
    taken = 0

    def endless() -> Iterator[Input]:
        nonlocal taken
        while True:
            taken += 1
            yield [f"{taken}", "runs"]

    answers = run.stream(endless(), tasks=["pos"])
    assert taken == 0
    first = [next(answers) for _ in range(3)]
    assert [answer["words"][0] for answer in first] == ["1", "2", "3"]
    read = taken
    assert read <= 1024
    for _ in range(read):
        last = next(answers)
    assert last["words"][0] == str(read + 3)
    assert taken <= 2 * read  # one more chunk, no more


def test_a_stream_keeps_the_order_of_mixed_lengths(run: Run) -> None:
    given: list[Input] = [["w"] * (1 + number * 37 % 50) + [str(number)] for number in range(1200)]
    answers = run.stream(given, tasks=["tone"])
    assert [answer["words"][-1] for answer in answers] == [str(number) for number in range(1200)]


def test_examples_that_lack_every_label_of_a_split_are_an_error(run: Run) -> None:
    nothing: list[Example] = []
    with pytest.raises(RunError, match="no labelled example"):
        run.evaluate_examples(nothing, "test")


def test_slices(run: Run) -> None:
    found = run.evaluate("test", slices=["length", "unseen"])["slices"]
    assert sum(scores["pos"]["examples"] for scores in found["length"].values() if "pos" in scores) == 24
    assert sum(scores["tone"]["examples"] for scores in found["unseen"].values() if "tone" in scores) == 24
    with pytest.raises(RunError, match="--slices genre"):
        run.evaluate("test", slices=["genre"])


def other_data(tmp_path: Path, words: str, **declared: Any) -> Config:
    """Test data that the run has not seen, with the task tone declared in some way."""
    write_jsonl(tmp_path / "other.jsonl", [{"text": words, "tone": "good"}])
    source = {
        "format": "jsonl",
        "train": "other.jsonl",
        "test": "other.jsonl",
        "text": "text",
        "labels": {"tone": "tone"},
    }
    data = {"tasks": {"tone": {"kind": "text_classification"} | declared}, "sources": [source]}
    (tmp_path / "other.yaml").write_text(json.dumps(data))
    return Config.load(tmp_path / "other.yaml")


def test_seen_words_are_those_that_the_model_was_trained_on(run: Run, tmp_path: Path) -> None:
    config = other_data(tmp_path, "xylophone zeppelin quokka")
    found = run.evaluate("test", slices=["unseen"], config=config)["slices"]["unseen"]
    assert [name for name in found if "seen" in name] == list(found)
    assert "all words seen" not in found


def test_a_task_declared_otherwise_is_not_scored(run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"other\.yaml:1: tasks\.tone\.kind: .* trained with text_classification, found reg"
    ):
        run.evaluate("test", config=other_data(tmp_path, "a b", kind="regression"))


class TestADamagedRun:
    @pytest.fixture
    def copy(self, trained: Trained, tmp_path: Path) -> Path:
        return Path(shutil.copytree(trained.folder, tmp_path / "run"))

    @pytest.mark.parametrize(
        "name", ["config.yaml", "model.safetensors", "tokenizer.json", "trunk.json", "labels.json"]
    )
    def test_a_missing_file(self, copy: Path, name: str) -> None:
        (copy / name).unlink()
        with pytest.raises(RunError, match=str(copy)):
            Run.load(copy)

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "trunk.json", "labels.json"])
    def test_a_file_cut_short(self, copy: Path, name: str) -> None:
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(RunError, match=str(copy)):
            Run.load(copy)

    def test_weights_of_another_model(self, copy: Path) -> None:
        described = json.loads((copy / "trunk.json").read_text())
        described["encoder"]["num_hidden_layers"] = 1
        (copy / "trunk.json").write_text(json.dumps(described))
        with pytest.raises(RunError, match="does not hold this model's weights"):
            Run.load(copy)

    def test_no_run_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="not a run folder"):
            Run.load(tmp_path)
