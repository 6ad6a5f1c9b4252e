"""Items as files: they come back as they went, and Palmette's own readers take them for training."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from palmette.cli import main
from palmette.config import Config
from palmette.corpus import load_corpus
from palmette.errors import ReadError, StoreError
from palmette.operate.review.exchange import FORMATS
from palmette.operate.review.exchange.base import spans_of, tags_of
from palmette.operate.review.labels import label_json
from palmette.operate.review.queue import Queue, Rules
from palmette.operate.review.transfer import bring_back, export
from palmette.store import open_store
from palmette.types import Text
from test_review import CASES, DIGEST, KEEP, KINDS, NAME, NOW, candidate, dump, hide, put, right

LINES = {"conllu": {"pos", "ner", "tone"}, "columns": {"pos", "ner"}, "jsonl": set(KINDS)}
CASES_OF = [(name, task) for name in FORMATS for task in KINDS if task in LINES.get(name, set(KINDS))]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    yield from _open(tmp_path / "store.db")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Queue]:
    """A queue with the same items, of which nobody said anything."""
    yield from _open(tmp_path / "other.db")


def _open(path: Path) -> Iterator[Queue]:
    queue = Queue(open_store(str(path)), Rules(keep=KEEP, reviewers=2))
    queue.know(KINDS, DIGEST, now=NOW)
    yield queue
    queue.engine.dispose()


@pytest.mark.parametrize(("name", "task"), CASES_OF)
def test_what_people_said_comes_back(queue: Queue, other: Queue, tmp_path: Path, name: str, task: str) -> None:
    for each in (queue, other):
        put(each, task, task)
    for reviewer in ("anna", "tom"):
        queue.decide(1, reviewer, "corrected", label=right(task), now=NOW)
    file = tmp_path / "out"
    assert export(queue, name, task, file, now=NOW, which="all").items == 2
    found = bring_back(other, name, task, file, reviewer="desk", now=NOW)
    assert (found.refused, found.unknown, found.widened, found.known) == (0, 0, 0, 0)
    said = {(one.item, one.reviewer): one.label for one in other.decisions()}
    if name in LINES:  # which have one label an item; of the second, what the model said
        assert said == {(1, "desk"): right(task), (2, "desk"): None}
    else:
        assert said == {(1, "anna"): right(task), (1, "tom"): right(task)}
    assert bring_back(other, name, task, file, reviewer="desk", now=NOW).taken == 0  # again: nothing new


def _config(task: str, name: str, file: Path) -> Config:
    kind = KINDS[task]
    label: Any = {"columns": 1, "jsonl": task}.get(name) or (f"comment.{task}" if task == "tone" else f"misc.{task}")
    source: dict[str, Any] = {"format": name, "train": str(file), "labels": {task: label}}
    more: dict[str, dict[str, Any]] = {"columns": {"text_column": 0, "comments": True}, "jsonl": {"text": "text"}}
    source |= more.get(name, {})
    if task == "answer":
        source["text_pair"] = "text_pair"
    declared = {"kind": kind.config.kind} | ({"scheme": "iob2"} if task == "ner" else {})
    family = {"family": "text2text"} if task == "summary" else {}
    return Config.parse({"trunk": "t", "tasks": {task: declared}, "sources": [source], **family})


@pytest.mark.parametrize(("name", "task"), [case for case in CASES_OF if case[0] in LINES])
def test_what_was_written_can_be_trained_on(queue: Queue, tmp_path: Path, name: str, task: str) -> None:
    put(queue, task, task, task)
    queue.decide(1, "anna", "corrected", label=right(task), now=NOW)
    queue.decide(1, "tom", "corrected", label=right(task), now=NOW)
    queue.decide(2, "anna", "right", now=NOW)
    queue.decide(2, "tom", "corrected", label=right(task), now=NOW)  # they disagree
    queue.decide(3, "anna", "right", now=NOW)  # and wait for tom
    file = tmp_path / f"out.{name}"
    found = export(queue, name, task, file, now=NOW)
    assert (found.items, found.disagreed, found.waiting) == (1, 1, 1)
    (example,) = load_corpus(_config(task, name, file), strict=True).splits["train"]
    text, _, label = CASES[task]
    assert (example.text.words, example.labels) == (text.text.words, {task: label})
    if text.pair is not None:
        assert example.pair is not None
        assert example.pair.string == text.pair.string


def test_argilla_records_have_argillas_fields(queue: Queue, tmp_path: Path) -> None:
    put(queue, "ner")
    queue.decide(1, "anna", "corrected", label=right("ner"), now=NOW)
    export(queue, "argilla", "ner", tmp_path / "out", now=NOW)
    (record,) = json.loads((tmp_path / "out").read_text())
    assert set(record) == {"id", "fields", "metadata", "suggestions", "responses", "vectors", "_server_id"}
    assert record["fields"] == {"text": CASES["ner"][0].text.raw}
    paris = {"start": 18, "end": 23, "label": "LOC"}
    assert record["suggestions"] == {"ner": {"value": [paris], "score": 0.4, "agent": DIGEST}}
    (response,) = record["responses"]["ner"]
    assert response["value"] == [{"start": 0, "end": 9, "label": "PER"}, paris]
    assert len(response["user_id"]) == 36  # Argilla's users have UUIDs


def test_label_studio_tasks_have_its_fields(queue: Queue, tmp_path: Path) -> None:
    put(queue, "ner")
    queue.decide(1, "anna", "corrected", label=right("ner"), now=NOW)
    export(queue, "label-studio", "ner", tmp_path / "out.json", now=NOW)
    (task,) = json.loads((tmp_path / "out.json").read_text())
    (prediction,) = task["predictions"]
    value = {"start": 18, "end": 23, "text": "Paris", "labels": ["LOC"]}
    region = {"id": "r0", "from_name": "ner", "to_name": "text", "type": "labels", "value": value}
    assert prediction == {"model_version": DIGEST, "score": 0.4, "result": [region]}
    (annotation,) = task["annotations"]
    assert annotation["completed_by"] == {"email": "anna"}
    configuration = (tmp_path / "out.xml").read_text()
    assert '<Labels name="ner" toName="text">' in configuration
    assert '<Label value="PER"/>' in configuration


def test_label_studios_own_export_is_read(queue: Queue, tmp_path: Path) -> None:
    """As it numbers its users, cancels annotations, and lets people mark parts of words."""
    put(queue, "ner", "ner")
    regions = [{"id": "x", "from_name": "ner", "to_name": "text", "type": "labels", "origin": "manual"}]
    regions[0]["value"] = {"start": 2, "end": 13, "text": "nthippe  sa", "labels": ["PER"]}  # type: ignore[assignment]
    tasks = [
        {
            "id": 7,
            "data": {"text": "…", "item": 1},
            "annotations": [
                {"id": 3, "completed_by": 12, "was_cancelled": False, "result": regions},
                {"id": 4, "completed_by": 13, "was_cancelled": True, "result": []},
            ],
        },
        {"id": 8, "data": {"item": 99}, "annotations": [{"completed_by": 12, "result": []}]},
    ]
    (tmp_path / "in.json").write_text(json.dumps(tasks))
    found = bring_back(queue, "label-studio", "ner", tmp_path / "in.json", reviewer="desk", now=NOW)
    assert (found.taken, found.unknown, found.widened) == (1, 1, 1)
    (said,) = queue.decisions()
    assert (said.reviewer, said.label) == ("12", ["B-PER", "I-PER", "O", "O", "O"])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', "[1]", '[{"data": 3}]', "word\ttag\n\n", "\x00"])
def test_what_is_no_such_file_is_refused(queue: Queue, tmp_path: Path, name: str, content: str) -> None:
    put(queue, "ner")
    (tmp_path / "in").write_text(content)
    with suppress(ReadError):
        assert bring_back(queue, name, "ner", tmp_path / "in", reviewer="desk", now=NOW).taken == 0
    assert queue.decisions() == []


def _annotated(name: str, item: int, spans: list[Any]) -> dict[str, Any]:
    """A record of Argilla, or a task of Label Studio, whose label is `spans`."""
    if name == "argilla":
        return {"metadata": {"item": item}, "responses": {"ner": [{"user_id": "tom", "value": spans}]}}
    result = [{"type": "labels", "from_name": "ner", "value": {**s, "labels": [s["label"]][: s["end"]]}} for s in spans]
    return {"data": {"item": item}, "annotations": [{"completed_by": "tom", "result": result}]}


@pytest.mark.parametrize("name", ["argilla", "label-studio"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 90, "end": 95, "label": "LOC"},  # behind the text
        {"start": "0", "end": 9, "label": "LOC"},
        {"start": 0, "end": 0, "label": "LOC"},  # in Label Studio without a label
    ],
)
def test_an_annotation_with_a_fault_is_refused_and_the_rest_taken(
    queue: Queue, tmp_path: Path, name: str, wrong: dict[str, Any]
) -> None:
    put(queue, "ner", "ner")
    good = {"start": 18, "end": 23, "label": "LOC"}
    (tmp_path / "in").write_text(json.dumps([_annotated(name, 1, [wrong]), _annotated(name, 2, [good])]))
    found = bring_back(queue, name, "ner", tmp_path / "in", reviewer="desk", now=NOW)
    assert (found.taken, found.refused) == (1, 1)
    assert f"{tmp_path / 'in'}: " in str(found.reason)
    assert [said.item for said in queue.decisions()] == [2]


def test_an_item_whose_answer_nobody_can_read_is_for_annotation(queue: Queue, tmp_path: Path) -> None:
    queue.add([replace(candidate("summary"), prediction=None, why="unreadable")], now=NOW)
    for name, field in (("argilla", "suggestions"), ("label-studio", "predictions")):
        assert export(queue, name, "summary", tmp_path / "out", now=NOW).items == 1
        assert not json.loads((tmp_path / "out").read_text())[0][field]
    found = export(queue, "jsonl", "summary", tmp_path / "out", now=NOW, which="all")
    assert (found.items, found.unanswered) == (0, 1)
    for reviewer in ("anna", "tom"):
        queue.decide(1, reviewer, "corrected", label=right("summary"), now=NOW)
    found = export(queue, "jsonl", "summary", tmp_path / "out", now=NOW)
    assert (found.items, found.unanswered) == (1, 0)


def test_what_a_format_cannot_hold_is_refused(queue: Queue, tmp_path: Path) -> None:
    put(queue, "tone", "answer")
    with pytest.raises(StoreError, match="jsonl"):
        export(queue, "columns", "tone", tmp_path / "out", now=NOW, which="all")
    with pytest.raises(StoreError, match="jsonl"):
        export(queue, "conllu", "answer", tmp_path / "out", now=NOW, which="all")
    with pytest.raises(StoreError, match="no task"):
        export(queue, "jsonl", "nothing", tmp_path / "out", now=NOW)


def test_a_wrong_label_is_refused_and_the_rest_taken(queue: Queue, tmp_path: Path) -> None:
    put(queue, "tone", "tone")
    rows = [{"item": 1, "tone": ["bad"]}, {"item": 2, "tone": "bad", "reviewer": "tom"}]
    (tmp_path / "in").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = bring_back(queue, "jsonl", "tone", tmp_path / "in", reviewer="desk", now=NOW)
    assert (found.taken, found.refused) == (1, 1)
    assert found.reason is not None
    assert "in:1" in found.reason
    assert [one.reviewer for one in queue.decisions()] == ["tom"]


@given(st.lists(st.tuples(st.text("ab\u00e9😀", min_size=1, max_size=3), st.sampled_from(["O", "B-X", "I-X", "B-Y"]))))
def test_tags_survive_as_characters(words: list[tuple[str, str]]) -> None:
    text = Text(tuple(word for word, _ in words))
    tags = list(
        KINDS["ner"].parse(tuple(tag for _, tag in words), KINDS["ner"].config, CASES["ner"][0].__class__(text, {}))
    )
    for plain in (True, False):
        assert tags_of(spans_of(tags, text, plain=plain), text, plain=plain, place="here") == (tags, 0)


# The commands -------------------------------------------------------------------------------------------------------


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["review", *map(str, arguments)])


def test_out_and_in_by_command(queue: Queue, tmp_path: Path) -> None:
    now = datetime.now(UTC)  # as the commands have it
    queue.add([candidate("tone", number) for number in range(2)], now=now)
    Queue(queue.engine, Rules()).add([candidate("tone", 9)], now=now)  # without its text
    store, file = tmp_path / "store.db", tmp_path / "out.jsonl"
    found = _run("export", store, "--format", "jsonl", "--task", "tone", "--which", "all", "--out", file)
    if found.exit_code:
        raise AssertionError(found.output)
    assert "2 items" in found.output
    assert "1 items left out: their text is not kept" in found.output
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"tone": "bad"}) + "\n" for row in rows))
    found = _run("import", store, file, "--format", "jsonl", "--task", "tone", "--reviewer", "desk")
    assert (found.exit_code, found.output) == (0, "2 taken, 0 known already\n")
    assert [said.label for said in queue.decisions()] == ["bad", "bad"]
    assert all(item.open for item in queue.items(now=now)[:2])  # the server asked for two people


@pytest.mark.parametrize("name", [name for name, task in CASES_OF if task == "summary"])
def test_what_is_imported_goes_through_the_servers_redaction(queue: Queue, tmp_path: Path, name: str) -> None:
    now, file = datetime.now(UTC), tmp_path / "out"
    queue.add([candidate("summary")], now=now)
    queue.decide(1, "anna", "corrected", label=right("summary"), now=now)
    export(queue, name, "summary", file, now=now, which="all")
    if name == "jsonl":  # which has what people agree on, and the second reviewer has not been here
        file.write_text(json.dumps({"item": 1, "summary": right("summary")}))
    assert NAME in file.read_text()
    store = tmp_path / "redacted.db"
    redacted = Queue(open_store(str(store)), Rules(keep=KEEP, redact=hide))
    redacted.know(KINDS, DIGEST, now=now)
    redacted.add([candidate("summary"), candidate("tone")], now=now)
    arguments = ("import", store, file, "--format", name, "--task", "summary", "--reviewer", "anna")
    without = _run(*arguments)
    assert (without.exit_code, "give the same one with --redact" in without.output) == (2, True)
    broken = _run(*arguments, "--redact", "test_review:fail")
    assert "0 taken" in broken.output
    assert "the redaction cannot be applied to it" in broken.output
    assert redacted.decisions() == []
    for taken, known in ((1, 0), (0, 1)):  # the second time nothing is new
        found = _run(*arguments, "--redact", "test_review:hide")
        assert (found.exit_code, found.output) == (0, f"{taken} taken, {known} known already\n")
    (said,) = redacted.decisions()
    assert said.label == ["[NAME] sat down"]
    assert NAME not in dump(redacted)
    file.write_text(json.dumps({"item": 2, "tone": "bad"}))  # a class repeats nothing
    found = _run("import", store, file, "--format", "jsonl", "--task", "tone", "--reviewer", "anna")
    assert (found.exit_code, found.output) == (0, "1 taken, 0 known already\n")
    redacted.engine.dispose()


def test_mistakes_end_in_a_message(queue: Queue, tmp_path: Path) -> None:
    missing = _run("export", tmp_path / "none.db", "--format", "jsonl", "--task", "t", "--out", tmp_path / "x")
    assert (missing.exit_code, "no such file" in missing.output) == (2, True)
    assert not (tmp_path / "none.db").exists()
    options = ("--format", "jsonl", "--task", "tone", "--out", tmp_path / "missing" / "x")
    put(queue, "tone")
    nowhere = _run("export", tmp_path / "store.db", *options)
    assert (nowhere.exit_code, "x: cannot be written: No such file" in nowhere.output) == (2, True)
    unknown = _run("export", tmp_path / "store.db", "--format", "jsonl", "--task", "t", "--out", tmp_path / "x")
    assert (unknown.exit_code, "no task 't'" in unknown.output) == (2, True)


@pytest.mark.parametrize("command", ["export", "import"])
def test_without_the_extra_it_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "in").touch()
    rest = ["--out", str(tmp_path / "out")] if command == "export" else [str(tmp_path / "in"), "--reviewer", "desk"]
    arguments = ["review", command, str(tmp_path / "store.db"), "--format", "jsonl", "--task", "tone", *rest]
    code = "import sys; sys.modules['sqlalchemy'] = None; from palmette.cli import main; main(sys.argv[1:])"
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    expected = "palmette: sqlalchemy is not installed: pip install 'palmette[operate]'\n"
    assert (found.returncode, found.stderr) == (2, expected)


def test_labels_are_written_as_the_api_takes_them() -> None:
    assert label_json(CASES["answer"][1]) == [{"text": "Xanthippe", "answer_start": 0}]
