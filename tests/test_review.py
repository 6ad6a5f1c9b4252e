"""The review queue: what gets in, what people say, what of it stays, and what is really gone."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from conftest import Trained
from palmette.answering import Answerer
from palmette.config import TaskConfig
from palmette.errors import ConfigError, StoreError
from palmette.kinds import AnyKind, find_kind
from palmette.kinds.base import UNREADABLE, LabelError
from palmette.operate.review.agreement import agreement, cohens_kappa
from palmette.operate.review.cleanup import clean_up, wilson
from palmette.operate.review.corrections import corrections
from palmette.operate.review.labels import label_json, read_label
from palmette.operate.review.queue import Candidate, NoItemError, Queue, Rules, Why
from palmette.operate.review.redaction import find_redaction, redact_example, redact_label
from palmette.run import Run
from palmette.serving import ServerSettings
from palmette.serving.app import create_app
from palmette.serving.keys import hash_key
from palmette.serving.observing import Answered
from palmette.serving.service import Service
from palmette.store import open_store
from palmette.types import Answer, Example, Label, Prediction, Text
from postgres import new_database

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DIGEST = "d" * 64
NAME = "Xanthippe"  # stands in texts, and must be gone when it was deleted
RAW = f"{NAME}  sat in Paris."
TEXT = Text((NAME, "sat", "in", "Paris", "."), RAW, ((0, 9), (11, 14), (15, 17), (18, 23), (23, 24)))
QUESTION = Example(Text(("Where", "?")), {}, pair=TEXT)
ONE = Example(TEXT, {})


def kind(name: str, *, scheme: Any = None, **state: Any) -> AnyKind:
    return find_kind(name)(name, TaskConfig(kind=name, scheme=scheme), state)


KINDS: dict[str, AnyKind] = {
    "pos": kind("sequence_labeling", labels=["ADP", "NOUN", "VERB"]),
    "ner": kind("sequence_labeling", scheme="iob2", labels=["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]),
    "tone": kind("text_classification", labels=["bad", "good"]),
    "topics": kind("multilabel_classification", labels=["arts", "news"], threshold=0.5),
    "likeness": kind("regression", mean=0.0, deviation=1.0),
    "answer": kind("extractive_qa", unanswerable=True),
    "summary": kind("generation", longest=9),
}
# Task -> its text, what the model says, and what is right.
CASES: dict[str, tuple[Example, Label, Label]] = {
    "pos": (ONE, ("NOUN", "NOUN", "ADP", "NOUN", "NOUN"), ("NOUN", "VERB", "ADP", "NOUN", "NOUN")),
    "ner": (ONE, ("O", "O", "O", "B-LOC", "O"), ("B-PER", "O", "O", "B-LOC", "O")),
    "tone": (ONE, "good", "bad"),
    "topics": (ONE, frozenset({"news"}), frozenset({"news", "arts"})),
    "likeness": (ONE, 1.5, 2.5),
    "answer": (QUESTION, (Answer(0, NAME),), (Answer(18, "Paris"),)),
    "summary": (ONE, (f"{NAME} sits",), (f"{NAME} sat down",)),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    return new_database(request.getfixturevalue("postgres_url"), f"review_{uuid.uuid4().hex}")


Open = Callable[..., Queue]


@pytest.fixture
def queue_of(url: str) -> Iterator[Open]:
    engines = []

    def build(**rules: Any) -> Queue:
        engines.append(open_store(url))
        queue = Queue(engines[-1], Rules(**rules))
        queue.know(KINDS, DIGEST, now=NOW)
        return queue

    yield build
    for engine in engines:
        engine.dispose()


def candidate(task: str, number: int = 0, *, why: Why = "low_confidence", automatic: bool = False) -> Candidate:
    example, prediction, _ = CASES[task]
    return Candidate("request", number, task, KINDS[task], DIGEST, example, prediction, 0.4, why, automatic)


def put(queue: Queue, *tasks: str, **options: Any) -> list[int]:
    return queue.add([candidate(task, n, **options) for n, task in enumerate(tasks)], now=NOW)[0]


def right(task: str) -> Any:
    return label_json(CASES[task][2])


def rows(queue: Queue, table: str) -> int:
    with queue.engine.connect() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())  # noqa: S608


KEEP = timedelta(days=30)


# Kinds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", KINDS)
def test_labels_survive_json(task: str) -> None:
    example, *labels = CASES[task]
    for label in labels:
        assert read_label(label_json(label), KINDS[task], example) == label


@pytest.mark.parametrize(
    ("task", "changed", "units"),
    [
        ("pos", 1, 5),
        ("ner", 1, 5),
        ("tone", 1, 1),
        ("topics", 1, 2),
        ("likeness", 1, 1),
        ("answer", 1, 1),
        ("summary", 2, 3),
    ],
)
def test_the_size_of_a_correction_is_counted_in_the_units_of_its_kind(task: str, changed: int, units: int) -> None:
    _, before, after = CASES[task]
    pairs = KINDS[task].compare(before, after)
    assert (sum(one != other for one, other in pairs), len(pairs)) == (changed, units)
    assert all(one == other for one, other in KINDS[task].compare(after, after))


# The queue ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", KINDS)
def test_an_item_comes_back_as_it_went_in(queue_of: Open, task: str) -> None:
    queue = queue_of(keep=KEEP)
    put(queue, task)
    item = Queue(queue.engine).next("anna", now=NOW)
    assert item is not None
    example, prediction, _ = CASES[task]
    assert (item.example, item.prediction) == (example, label_json(prediction))
    assert (item.task, item.why, item.confidence, item.created) == (task, "low_confidence", 0.4, NOW)
    assert (item.kind.form, item.kind.labels) == (KINDS[task].form, KINDS[task].labels)


@pytest.mark.parametrize("task", KINDS)
def test_a_correction_becomes_a_labelled_example(queue_of: Open, task: str) -> None:
    queue = queue_of(keep=KEEP)
    (item,) = put(queue, task)
    queue.decide(item, "anna", "corrected", label=right(task), now=NOW)
    (found,) = corrections(queue.engine, now=NOW).examples
    assert (found.example.labels, found.example.text) == ({task: CASES[task][2]}, CASES[task][0].text)
    assert (found.changed, found.reviewers, found.request_id, found.item) == (True, ("anna",), "request", item)
    assert queue.waiting() == {}


def test_a_correction_that_changes_nothing_is_an_acceptance(queue_of: Open) -> None:
    queue = queue_of()
    (item,) = put(queue, "tone")
    assert queue.decide(item, "anna", "corrected", label="good", now=NOW).verdict == "right"


def test_what_is_no_label_is_refused_and_leaves_no_trace(queue_of: Open) -> None:
    queue = queue_of(keep=KEEP)
    (item,) = put(queue, "ner")
    for label in (["O"], ["B-PER"] * 4, "PER", 3, {"a": 1}, [["O"]], ["X-PER", "O", "O", "O", "O"]):
        with pytest.raises(LabelError):
            queue.decide(item, "anna", "corrected", label=label, now=NOW)
    assert rows(queue, "review_decisions") == 0


def test_two_reviewers_see_each_item_and_one_sees_it_once(queue_of: Open) -> None:
    queue = queue_of(reviewers=2)
    (item,) = put(queue, "tone")
    for reviewer in ("anna", "tom"):
        found = queue.next(reviewer, now=NOW)
        assert found is not None
        queue.decide(found.id, reviewer, "right", now=NOW)
        assert queue.next(reviewer, now=NOW) is None
    assert queue.next("third", now=NOW) is None
    assert not queue.item(item, now=NOW).open


def test_nobody_is_given_what_another_looks_at_until_the_lease_ends(queue_of: Open) -> None:
    queue = queue_of(lease=timedelta(minutes=10))
    first, second = put(queue, "tone", "tone")
    given = [queue.next(name, now=NOW) for name in ("anna", "tom", "third")]
    assert [item and item.id for item in given] == [first, second, None]
    later = queue.next("third", now=NOW + timedelta(minutes=11))
    assert later is not None
    assert later.id == first


def test_at_the_same_moment_reviewers_get_different_items(queue_of: Open) -> None:
    queue = queue_of()
    put(queue, *["tone"] * 8)
    found: list[int] = []

    def ask(name: str) -> None:
        item = queue.next(name, now=NOW)
        assert item is not None
        found.append(item.id)

    threads = [threading.Thread(target=ask, args=(f"reviewer {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8


def test_a_decision_is_taken_back(queue_of: Open) -> None:
    queue = queue_of()
    (item,) = put(queue, "tone")
    queue.decide(item, "anna", "right", now=NOW)
    assert queue.next("anna", now=NOW) is None
    queue.decide(item, "anna", "withdrawn", now=NOW)
    again = queue.next("anna", now=NOW)
    assert again is not None
    assert again.id == item
    assert rows(queue, "review_decisions") == 2  # only ever added to


def test_what_one_skips_waits_for_others(queue_of: Open) -> None:
    queue = queue_of()
    (item,) = put(queue, "tone")
    queue.decide(item, "anna", "skipped", now=NOW)
    assert queue.next("anna", now=NOW) is None
    other = queue.next("tom", now=NOW)
    assert other is not None
    assert other.id == item


def test_a_full_queue_drops_what_comes_and_says_so(queue_of: Open) -> None:
    queue = queue_of(capacity=2)
    ids, dropped, _ = queue.add([candidate("tone", n) for n in range(5)], now=NOW)
    assert (len(ids), [found.number for found in dropped]) == (2, [2, 3, 4])
    assert queue.add([candidate("pos")], now=NOW)[1] == []  # each task has room of its own
    queue.decide(ids[0], "anna", "right", now=NOW)
    assert len(queue.add([candidate("tone")], now=NOW)[0]) == 1


def test_disagreement_is_left_out_and_counted(queue_of: Open) -> None:
    queue = queue_of(keep=KEEP, reviewers=2)
    first, second = put(queue, "tone", "tone")
    queue.decide(first, "anna", "right", now=NOW)
    queue.decide(first, "tom", "corrected", label="bad", now=NOW)
    queue.decide(second, "anna", "corrected", label="bad", now=NOW)
    queue.decide(second, "tom", "corrected", label="bad", now=NOW)
    found = corrections(queue.engine, now=NOW)
    assert ([one.item for one in found.examples], found.disagreed) == ([second], {"tone": 1})
    assert corrections(queue.engine, now=NOW, since=NOW).examples == []
    assert corrections(queue.engine, now=NOW, tasks=["pos"]).disagreed == {}


def test_an_item_that_waits_for_a_second_voice_is_no_correction_yet(queue_of: Open) -> None:
    queue = queue_of(keep=KEEP, reviewers=2)
    (item,) = put(queue, "tone")
    queue.decide(item, "anna", "corrected", label="bad", now=NOW)
    assert (found := corrections(queue.engine, now=NOW)).examples == []
    assert found.waiting == {"tone": 1}
    Queue(queue.engine).decide(item, "tom", "corrected", label="bad", now=NOW)  # by a process with other rules
    assert [one.item for one in corrections(queue.engine, now=NOW).examples] == [item]


def test_the_last_word_of_a_reviewer_counts(queue_of: Open) -> None:
    queue = queue_of(keep=KEEP)
    (item,) = put(queue, "tone")
    for label in ("bad", "bad", "good"):
        queue.decide(item, "anna", "corrected", label=label, now=NOW)
    (found,) = corrections(queue.engine, now=NOW).examples
    assert (found.label, found.changed) == ("good", False)


# Texts --------------------------------------------------------------------------------------------------------------


def dump(queue: Queue) -> str:
    """Everything in the tables, as text."""
    with queue.engine.connect() as connection:
        return str(
            [
                connection.execute(sa.text(f"SELECT * FROM {table}")).all()  # noqa: S608
                for table in sa.inspect(connection).get_table_names()
            ]
        )


@pytest.mark.parametrize("task", KINDS)
def test_no_text_is_kept_unless_the_operator_says_so(queue_of: Open, task: str) -> None:
    queue = queue_of()
    (item,) = put(queue, task)
    queue.decide(item, "anna", "corrected", label=right(task), example=CASES[task][0], now=NOW)
    content = dump(queue)
    assert NAME not in content
    assert "Paris" not in content
    assert corrections(queue.engine, now=NOW).textless == {task: 1}


@pytest.mark.parametrize("task", KINDS)
def test_texts_end_with_their_time(queue_of: Open, task: str) -> None:
    queue = queue_of(keep=timedelta(days=1))
    (item,) = put(queue, task)
    queue.decide(item, "anna", "corrected", label=right(task), now=NOW)
    assert NAME in dump(queue)
    assert queue.expire(now=NOW + timedelta(hours=23)) == 0
    later = NOW + timedelta(hours=25)
    assert corrections(queue.engine, now=later).textless == {task: 1}  # over is over, also before anybody sweeps
    assert queue.expire(now=later) == 1
    content = dump(queue)
    assert NAME not in content
    assert "Paris" not in content
    assert queue.item(item, now=later).request_id == "request"


def hide(words: Sequence[str]) -> list[str]:
    """Replaces a name."""
    return ["[NAME]" if word == NAME else word for word in words]


@pytest.mark.parametrize("task", KINDS)
def test_redaction_comes_before_storing_and_labels_keep_their_places(queue_of: Open, task: str) -> None:
    queue = queue_of(keep=KEEP, redact=hide)
    (item,) = put(queue, task)
    assert NAME not in dump(queue)
    found = queue.item(item, now=NOW)
    assert found.example is not None
    assert (found.example.pair or found.example.text).string == "[NAME]  sat in Paris."
    if task == "answer":
        assert found.prediction == [{"text": "[NAME]", "answer_start": 0}]
    assert found.prediction == label_json(read_label(found.prediction, found.kind, found.example))


def test_what_reviewers_write_is_redacted_too(queue_of: Open) -> None:
    queue = queue_of(keep=KEEP, redact=hide)
    (summary,) = put(queue, "summary")
    assert queue.decide(summary, "anna", "corrected", label=right("summary"), now=NOW).label == ["[NAME] sat down"]
    assert NAME not in dump(queue)


def test_a_label_over_the_callers_own_passage_moves_to_the_redacted_one(queue_of: Open) -> None:
    queue = queue_of(keep=KEEP, redact=hide)
    (item,) = put(queue, "answer")
    place = [{"text": "Paris", "answer_start": 18}]
    said = queue.decide(item, "anna", "corrected", label=place, example=QUESTION, now=NOW)
    assert said.label == [{"text": "Paris", "answer_start": 15}]
    shown = queue.item(item, now=NOW).example  # or over the text as the queue has it
    assert queue.decide(item, "tom", "corrected", label=said.label, example=shown, now=NOW).label == said.label
    other = Example(QUESTION.text, {}, pair=Text(("Paris",)))
    with pytest.raises(LabelError, match="another passage"):
        queue.decide(item, "tom", "corrected", label=[{"text": "Paris", "answer_start": 0}], example=other, now=NOW)


def test_a_label_that_cannot_be_redacted_is_not_kept(queue_of: Open) -> None:
    (item,) = put(queue_of(keep=KEEP, redact=hide), "summary")
    broken = queue_of(keep=KEEP, redact=lambda words: words[:-1])
    said = broken.decide(item, "anna", "corrected", label=right("summary"), now=NOW)
    assert (said.verdict, said.label) == ("corrected", None)


def test_an_answer_is_reported_with_its_correction_or_not_at_all(queue_of: Open) -> None:
    queue = queue_of(keep=KEEP)
    reported = candidate("pos", why="reported", automatic=True)
    with pytest.raises(LabelError):
        queue.report(reported, "anna", label=["NOUN"], now=NOW)
    assert queue.items(now=NOW) == []
    queue.report(reported, "anna", label=right("pos"), now=NOW)
    assert [item.open for item in queue.items(now=NOW)] == [False]


def test_an_answer_behind_a_redacted_word_moves_with_it() -> None:
    after = redact_example(QUESTION, hide)
    moved = redact_label((Answer(20, "ris"), Answer(4, "hippe  sat")), KINDS["answer"], QUESTION, after, hide)
    assert moved == (Answer(17, "ris"), Answer(0, "[NAME]  sat"))


@pytest.mark.parametrize("wrong", [lambda words: words[:-1], lambda words: words / 0, lambda words: [1] * len(words)])
def test_a_text_that_cannot_be_redacted_is_not_kept(queue_of: Open, wrong: Any) -> None:
    queue = queue_of(keep=KEEP, redact=wrong)
    ids, _, problems = queue.add([candidate("tone")], now=NOW)
    assert (len(ids), len(problems)) == (1, 1)
    assert NAME not in dump(queue) + problems[0]


def test_a_redaction_is_found_by_its_name() -> None:
    assert find_redaction(f"{__name__}:hide") is hide
    for name in ("nothing", "no.such.module:f", f"{__name__}:nothing", f"{__name__}:NOW"):
        with pytest.raises(ConfigError, match=r"review\.redact"):
            find_redaction(name)


# Deletion -----------------------------------------------------------------------------------------------------------


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file())


def test_deleted_texts_are_gone_from_the_files(tmp_path: Path) -> None:
    queue = Queue(open_store(str(tmp_path / "store.db")), Rules(keep=KEEP))
    queue.know(KINDS, DIGEST, now=NOW)
    ids = put(queue, *CASES)
    for item, task in zip(ids, CASES, strict=True):
        queue.decide(item, "anna", "corrected", label=right(task), now=NOW)
    assert NAME.encode() in bytes_of(tmp_path)
    assert queue.delete(ids[:3]) == 3
    assert NAME.encode() in bytes_of(tmp_path)
    assert queue.delete(ids) == len(ids) - 3
    assert NAME.encode() not in bytes_of(tmp_path)  # while the database is open
    put(queue, "tone")
    assert queue.expire(now=NOW + 2 * KEEP) == 1
    assert NAME.encode() not in bytes_of(tmp_path)
    queue.engine.dispose()


def test_deletion_takes_everything_of_an_item(queue_of: Open) -> None:
    queue = queue_of(keep=KEEP)
    first, second = put(queue, "tone", "answer")
    queue.next("anna", now=NOW)
    queue.decide(second, "anna", "corrected", label=right("answer"), now=NOW)
    assert queue.delete([second, 999]) == 1
    with pytest.raises(NoItemError):
        queue.item(second, now=NOW)
    queue.count({("tone", DIGEST): 4}, now=NOW - timedelta(days=3))
    queue.add([candidate("tone")], now=NOW - timedelta(days=2))
    assert queue.delete_before(NOW - timedelta(days=1)) == 1
    assert [item.id for item in queue.items(now=NOW)] == [first]
    assert [rows(queue, f"review_{name}") for name in ("texts", "decisions", "counts")] == [1, 0, 0]
    assert queue.add([candidate("tone")], now=NOW)[0][0] > second  # an id is not given again


def test_a_reader_that_keeps_the_log_is_named_and_the_text_goes_with_the_next_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palmette.operate.review.queue._PATIENCE", 0.1)
    queue = Queue(open_store(str(tmp_path / "store.db")), Rules(keep=KEEP))
    queue.know(KINDS, DIGEST, now=NOW)
    ids = put(queue, "tone")
    reader = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM review_items").fetchall()
    with pytest.raises(Exception, match="log of changes"):
        queue.delete(ids)
    assert NAME.encode() in bytes_of(tmp_path)
    reader.execute("COMMIT")
    assert queue.delete(ids) == 0
    assert NAME.encode() not in bytes_of(tmp_path)
    reader.close()
    queue.engine.dispose()


def test_what_a_process_deleted_before_it_died_is_erased_by_the_next(tmp_path: Path) -> None:
    queue = Queue(open_store(str(tmp_path / "store.db")), Rules(keep=KEEP))
    queue.know(KINDS, DIGEST, now=NOW)
    put(queue, "tone")
    with queue.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM review_items")
    assert NAME.encode() in bytes_of(tmp_path)
    assert Queue(queue.engine).expire(now=NOW) == 0
    assert NAME.encode() not in bytes_of(tmp_path)
    queue.engine.dispose()


def test_an_older_transaction_that_keeps_rows_is_named(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palmette.operate.review.queue._PATIENCE", 0.1)
    queue = Queue(open_store(new_database(postgres_url, f"review_{uuid.uuid4().hex}")), Rules(keep=KEEP))
    queue.know(KINDS, DIGEST, now=NOW)
    ids = put(queue, "tone")
    with queue.engine.connect().execution_options(isolation_level="REPEATABLE READ") as reader:
        reader.exec_driver_sql("SELECT count(*) FROM review_tasks")  # takes the snapshot, locks no table of items
        with pytest.raises(StoreError, match="1 older transactions"):
            queue.delete(ids)
        reader.exec_driver_sql("SELECT count(*) FROM review_items")
        with pytest.raises(StoreError, match="lock"):
            queue.delete(ids)
    assert queue.delete(ids) == 0
    queue.engine.dispose()


# Agreement and clean-up rate ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=40))
def test_kappa_is_sklearns(pairs: list[tuple[str, str]]) -> None:
    from sklearn.metrics import cohen_kappa_score

    found = cohens_kappa(pairs)
    if len({said for pair in pairs for said in pair}) == 1:
        assert found is None
        return
    expected = cohen_kappa_score([one for one, _ in pairs], [other for _, other in pairs])
    assert found == pytest.approx(expected)


def test_agreement_is_of_two_on_the_units_of_the_kind(queue_of: Open) -> None:
    queue = queue_of(reviewers=2)
    first, second = put(queue, "pos", "pos")
    queue.decide(first, "tom", "right", now=NOW)
    queue.decide(first, "anna", "corrected", label=right("pos"), now=NOW)
    queue.decide(second, "anna", "right", now=NOW)
    (found,) = agreement(queue, now=NOW)
    assert (found.task, found.reviewers, found.items, found.units, found.agreed) == ("pos", ("anna", "tom"), 1, 5, 0.8)
    said: Any = CASES["pos"][1]
    pairs = list(zip(right("pos"), said, strict=True))
    assert found.kappa == cohens_kappa(pairs)


def test_clean_up_rate(queue_of: Open) -> None:
    queue = queue_of()
    queue.count({("pos", DIGEST): 90}, now=NOW)
    queue.count({("pos", DIGEST): 10, ("tone", DIGEST): 5}, now=NOW + timedelta(days=1))
    audited = put(queue, "pos", "pos", why="audit", automatic=True)
    (reviewed,) = put(queue, "pos")  # it went to a person in the first place
    queue.decide(audited[0], "anna", "corrected", label=right("pos"), now=NOW)
    queue.decide(audited[1], "anna", "right", now=NOW)
    queue.decide(reviewed, "anna", "corrected", label=right("pos"), now=NOW)
    pos, tone = clean_up(queue)
    assert (pos.answers, pos.corrected, pos.rate, pos.changed, pos.units) == (100, 1, 0.01, 1, 5)
    assert (pos.audited, pos.audited_corrected, pos.last) == (2, 1, NOW)
    assert pos.estimate is not None
    assert pos.estimate[0] < 0.5 < pos.estimate[2]
    assert (tone.answers, tone.corrected, tone.rate, tone.estimate) == (5, 0, 0.0, None)


def test_an_answer_that_is_two_items_is_corrected_once(queue_of: Open) -> None:
    queue = queue_of()
    queue.count({("tone", DIGEST): 1}, now=NOW)
    audited, disputed = (put(queue, "tone", why=why, automatic=True)[0] for why in ("audit", "disagreement"))
    queue.decide(audited, "anna", "right", now=NOW)
    queue.decide(disputed, "anna", "corrected", label="bad", now=NOW + timedelta(minutes=1))  # her last word
    queue.decide(disputed, "tom", "corrected", label="bad", now=NOW)
    (tone,) = clean_up(queue)
    assert (tone.corrected, tone.rate, tone.changed, tone.units) == (1, 1.0, 1, 1)
    assert (tone.audited, tone.audited_corrected) == (1, 1)


def test_the_rate_is_at_most_1_where_uncertain_answers_were_reported(queue_of: Open) -> None:
    queue = queue_of()
    queue.count({("tone", DIGEST): 1}, now=NOW)
    for number in range(2):
        queue.report(candidate("tone", number, why="reported", automatic=True), "anna", label="bad", now=NOW)
    (tone,) = clean_up(queue)
    assert (tone.corrected, tone.rate) == (2, 1.0)


@given(st.integers(0, 50), st.integers(1, 50))
def test_wilson_is_statsmodels(successes: int, trials: int) -> None:
    from statsmodels.stats.proportion import proportion_confint

    successes = min(successes, trials)
    expected = proportion_confint(successes, trials, method="wilson")
    assert wilson(successes, trials) == pytest.approx(expected, abs=1e-6)


# The server ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(trained: Trained) -> Run:
    return Run.load(trained.folder)


class Client(TestClient):
    """A client, with what it talks to."""

    service: Service
    asked = seen = 0  # texts

    def watch(self) -> None:
        """Count what the queue has seen."""
        reviews = self.service.reviews
        assert reviews is not None
        look = reviews.answered

        def answered(answers: Sequence[Answered]) -> None:
            look(answers)
            self.seen += len(answers)

        reviews.answered = answered  # type: ignore[method-assign]

    def ask(self, path: str, **parameters: Any) -> Any:
        response = self.get(f"/v1/review/{path}", params=parameters)
        assert response.status_code == 200, response.text
        return response.json()

    def say(self, item: int, verdict: str, **body: Any) -> httpx.Response:
        return self.post(f"/v1/review/items/{item}/decisions", json={"reviewer": "anna", "verdict": verdict, **body})

    def value(self, name: str, **labels: str) -> float:
        self.service.reviews._measured = -math.inf  # type: ignore[union-attr]
        assert self.get("/metrics").status_code == 200
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0

    def predict(self, *texts: Any, tasks: Sequence[str], request: str = "r") -> Any:
        """Answers, when the queue has seen them."""
        response = self.post(
            "/v1/predict", json={"texts": list(texts), "tasks": list(tasks)}, headers={"x-request-id": request}
        )
        assert response.status_code == 200, response.text
        self.asked += len(texts)
        stop = time.monotonic() + 20
        while self.seen < self.asked:
            assert time.monotonic() < stop
            time.sleep(0.002)
        return response.json()


Connect = Callable[..., Client]


@pytest.fixture
def connect(run: Run, trained: Trained, url: str) -> Iterator[Connect]:
    clients: list[Client] = []

    def build(load: Callable[[Path], Answerer] = lambda _: run, keys: Path | None = None, **review: Any) -> Client:
        settings = ServerSettings.model_validate({"store": url, "review": {"audit": 0.0, **review}, "keys": keys})
        service = Service(load, trained.folder, settings)
        client = Client(create_app(service))
        client.service = service
        client.watch()
        client.__enter__()
        clients.append(client)
        return client

    yield build
    for client in clients:
        client.__exit__(None, None, None)


def refused(response: httpx.Response, status: int, field: str | None = None) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.get("field") == field
    return str(error["message"])


def test_uncertain_answers_reach_people_and_corrections_the_clean_up_rate(connect: Connect) -> None:
    client = connect(threshold=1.0, keep_texts=True)
    answers = client.predict("Anna sat in Paris", tasks=["ner", "tone"])
    item = client.ask("next", reviewer="anna", task="ner")["item"]
    assert (item["why"], item["form"], item["text"]) == ("low_confidence", "spans", "Anna sat in Paris")
    assert item["prediction"] == answers["answers"][0]["tasks"]["ner"]["tags"]
    assert item["digest"] == answers["model"]["digest"]
    tags = ["B-PER", "O", "O", "B-LOC"]
    said = client.say(item["id"], "corrected", label=tags).json()
    assert (said["verdict"] in {"corrected", "right"}, said["units"], said["open"]) == (True, 4, False)
    assert client.ask("next", reviewer="anna", task="ner") == {"item": None, "waiting": 0}
    assert client.value("palmette_review_items_total", task="ner", why="low_confidence") == 1
    assert client.value("palmette_review_waiting", task="tone") == 1
    assert client.ask("tasks")["tasks"]["ner"]["decided"] == 1
    (found,) = corrections(client.service.reviews.queue.engine, now=datetime.now(UTC)).examples  # type: ignore[union-attr]
    assert found.label == tuple(tags)


def test_thresholds_are_of_calibrated_confidences(connect: Connect) -> None:
    client = connect(threshold=0.5)
    state = {"calibration": {"method": "isotonic", "knots": [[0.0, 0.8, 1.0], [0.0, 0.4, 1.0]]}}
    kinds = {
        "tone": kind("text_classification", labels=["bad", "good"], **state),
        "pos": kind("sequence_labeling", labels=["ADP", "NOUN", "VERB"], **state),
    }
    reviews = client.service.reviews
    assert reviews is not None
    for number, confidence in enumerate((0.8, 0.9)):
        answers = {
            "tone": Prediction("good", confidence),
            "pos": Prediction(("NOUN",) * 5, (0.95,) * 4 + (confidence,)),
        }
        model: Any = SimpleNamespace(digest=DIGEST, kinds=kinds)
        reviews.answered([Answered(model, "r", number, ONE, answers)])
    found = reviews.queue.items(now=NOW)
    assert [(item.number, item.task) for item in found] == [(0, "tone"), (0, "pos")]
    assert [item.confidence for item in found] == pytest.approx([0.4, 0.4])


# Task -> what stands for an answer that nobody can read.
UNREAD: dict[str, Label] = {
    "pos": (UNREADABLE,) * 5,
    "ner": (UNREADABLE,) * 5,
    "tone": UNREADABLE,
    "topics": frozenset({UNREADABLE}),
    "likeness": math.nan,
    "answer": (Answer(-1, UNREADABLE),),
    "summary": (UNREADABLE,),
}


def test_what_a_model_wrote_unreadably_goes_to_people_without_an_answer(connect: Connect) -> None:
    client = connect(keep_texts=True)
    reviews = client.service.reviews
    assert reviews is not None
    model: Any = SimpleNamespace(digest=DIGEST, kinds=KINDS)
    for number, (task, label) in enumerate(UNREAD.items()):
        found = {task: Prediction(label, math.nan, readable=False)}
        reviews.answered([Answered(model, "r", number, CASES[task][0], found)])
    for task in UNREAD:
        item = client.ask("next", reviewer="anna", task=task)["item"]
        assert (item["why"], item["prediction"], item["confidence"]) == ("unreadable", None, None)
        assert client.say(item["id"], "corrected", label=right(task)).status_code == 200
    examples = corrections(reviews.queue.engine, now=datetime.now(UTC)).examples
    assert {one.task: one.label for one in examples} == {task: CASES[task][2] for task in UNREAD}
    assert client.ask("cleanup")["versions"] == []  # none of them went out without a person


def test_the_audit_draws_by_request(connect: Connect) -> None:
    client = connect(audit=0.5, seed=3)
    for number in range(40):
        client.predict("good", tasks=["tone"], request=f"request-{number}")
    reviews = client.service.reviews
    assert reviews is not None
    drawn = {item.request_id for item in reviews.queue.items(now=NOW)}
    assert 8 < len(drawn) < 32
    other = connect(audit=0.5, seed=3)
    for number in range(40):
        other.predict("awful", tasks=["tone"], request=f"request-{number}")
    assert {item.request_id for item in reviews.queue.items(now=NOW)} == drawn
    assert len(reviews.queue.items(now=NOW)) == 2 * len(drawn)
    assert all(item.automatic and item.why == "audit" for item in reviews.queue.items(now=NOW))
    assert client.ask("cleanup")["versions"][0]["answers"] >= 40


def test_what_two_models_see_differently_reaches_people(connect: Connect) -> None:
    client = connect(keep_texts=True)
    reviews, model = client.service.reviews, client.service.model
    assert reviews is not None
    answered = Answered(
        model, "r", 0, ONE, {"tone": Prediction("good", 0.9), "ner": Prediction(("O",) * 5, (0.9,) * 5)}
    )
    others = {"tone": Prediction("bad", 0.6), "ner": Prediction(("O",) * 5, (0.2,) * 5)}
    assert reviews.disagreed([(answered, others)]) == 1
    item = client.ask("next", reviewer="anna")["item"]
    assert (item["task"], item["why"], item["prediction"], item["candidate"]) == ("tone", "disagreement", "good", "bad")


def test_any_answer_can_be_corrected_by_its_request(connect: Connect) -> None:
    client = connect()
    answered = client.predict("the film is good", "awful", tasks=["tone"], request="mine")
    was = answered["answers"][1]["tasks"]["tone"]["label"]
    wanted = next(label for label in client.ask("tasks")["tasks"]["tone"]["labels"] if label != was)
    body = {"request_id": "mine", "number": 1, "task": "tone", "reviewer": "desk", "label": wanted}
    assert "model" in refused(client.post("/v1/review/corrections", json=body), 422, "model")
    body["model"] = answered["model"]["digest"]
    refused(client.post("/v1/review/corrections", json=body), 422, "prediction")
    body["prediction"] = was
    said = client.post("/v1/review/corrections", json=body)
    assert (said.status_code, said.json()["changed"]) == (200, 1), said.text
    assert client.post("/v1/review/corrections", json=body).status_code == 200  # said twice, counted once
    (version,) = client.ask("cleanup")["versions"]
    assert (version["answers"], version["corrected"], version["rate"]) == (2, 1, 0.5)
    labels = {"task": "tone", "digest": answered["model"]["digest"]}
    assert client.value("palmette_cleanup_rate", **labels) == 0.5
    assert client.value("palmette_cleanup_size", **labels) == 1.0


def report(client: Client, **body: Any) -> httpx.Response:
    """Correct an answer that the queue does not have."""
    known = {"request_id": "elsewhere", "reviewer": "desk", "model": client.service.model.digest}
    return client.post("/v1/review/corrections", json=known | body)


def test_a_correction_is_reported_with_its_text_where_texts_are_kept(connect: Connect) -> None:
    client = connect(keep_texts=True)
    reviews = client.service.reviews
    assert reviews is not None
    tone = {"task": "tone", "prediction": "good", "label": "bad"}
    tags = {"task": "pos", "prediction": ["NOUN", "VERB"], "label": ["VERB", "VERB"]}
    for body in (tone, tags):
        assert "keeps texts" in refused(report(client, **body), 422, "text")
    same = {"task": "same", "prediction": "yes", "label": "no", "text": "the cat sat"}
    assert "the second text" in refused(report(client, **same), 422, "text_pair")
    assert "single texts" in refused(report(client, **tone, text="a", text_pair="b"), 422, "text_pair")
    answer = {"task": "answer", "prediction": [], "label": [{"text": "Paris", "answer_start": 7}]}
    refused(report(client, **answer, text_pair="sat in Paris"), 422, "text")
    assert reviews.queue.items(now=NOW) == []
    assert report(client, **tone, text="it was long").status_code == 200
    assert report(client, **answer, text="where", text_pair="sat in Paris").status_code == 200
    found = corrections(reviews.queue.engine, now=datetime.now(UTC)).examples
    assert [(one.example.text.string, one.task) for one in found] == [("it was long", "tone"), ("where", "answer")]


def test_a_reported_text_that_redaction_fails_at_is_counted(connect: Connect) -> None:
    client = connect(keep_texts=True, redact=f"{__name__}:fail")
    assert report(client, task="tone", prediction="good", label="bad", text=NAME).status_code == 200
    assert client.value("palmette_review_unkept_texts_total") == 1
    assert NAME not in dump(client.service.reviews.queue)  # type: ignore[union-attr]


def fail(words: Sequence[str]) -> list[str]:
    """Replaces nothing, and not by as many words."""
    return [*words, "more"]


def test_bad_corrections_are_refused_by_field(connect: Connect) -> None:
    client = connect(threshold=1.0)
    client.predict("good", tasks=["tone", "pos"])
    item = client.ask("next", reviewer="anna", task="pos")["item"]["id"]
    refused(client.say(item, "corrected"), 422, "label")
    refused(client.say(item, "right", label=["X"]), 422, "label")
    refused(client.say(item, "perhaps"), 422, "verdict")
    refused(client.say(item, "right", reviewer=" "), 422, "reviewer")
    refused(client.say(item, "corrected", label=["A", "B"]), 422, "label")
    refused(client.say(999_999, "right"), 404)
    refused(client.say(10**30, "right"), 404)
    refused(client.get("/v1/review/next"), 422, "reviewer")
    refused(client.get("/v1/review/next?reviewer=a&after=x"), 422, "after")
    refused(client.get("/v1/review/items/x"), 422, "identity")
    refused(client.delete("/v1/review/items?before=yesterday"), 422, "before")
    refused(client.delete("/v1/review/items?before=2026-01-01T00:00:00"), 422, "before")
    refused(client.post(f"/v1/review/items/{item}/decisions", content="x"), 415)
    body = {"request_id": "x", "task": "tone", "reviewer": "a", "label": "good", "model": "f", "prediction": "bad"}
    refused(client.post("/v1/review/corrections", json=body), 422, "task")
    body["model"] = client.service.model.digest
    refused(client.post("/v1/review/corrections", json={**body, "prediction": ["x"]}), 422, "prediction")
    refused(client.post("/v1/review/corrections", json={**body, "label": 1}), 422, "label")
    assert client.ask("tasks")["tasks"]["tone"]["waiting"] == 1  # nothing of it was stored


def test_an_answer_in_a_passage_that_is_not_kept_needs_the_passage(connect: Connect) -> None:
    client = connect(threshold=1.01 - 0.01)
    client.predict({"text": "where is anna", "text_pair": "anna sat in paris"}, tasks=["answer"])
    item = client.ask("next", reviewer="anna")["item"]
    assert (item["prediction"], item["text"]) == (None, None)
    label = [{"text": "paris", "answer_start": 12}]
    refused(client.say(item["id"], "corrected", label=label), 422, "text_pair")
    texts = {"text": "where is anna", "text_pair": "anna sat in paris"}
    refused(client.say(item["id"], "corrected", label=[{"text": "x", "answer_start": 0}], **texts), 422, "label")
    assert client.say(item["id"], "corrected", label=label, **texts).status_code == 200
    assert "paris" not in dump(client.service.reviews.queue)  # type: ignore[union-attr]


def test_items_are_deleted_over_http(connect: Connect) -> None:
    client = connect(threshold=1.0, keep_texts=True)
    client.predict(NAME, tasks=["tone"])
    item = client.ask("next", reviewer="anna")["item"]["id"]
    assert client.ask(f"items/{item}")["text"] == NAME
    assert client.delete(f"/v1/review/items/{item}").json() == {"deleted": 1}
    refused(client.delete(f"/v1/review/items/{item}"), 404)
    client.predict(NAME, tasks=["tone"])
    assert client.delete("/v1/review/items", params={"before": "2100-01-01T00:00:00Z"}).json() == {"deleted": 1}
    assert NAME not in dump(client.service.reviews.queue)  # type: ignore[union-attr]


def test_every_operation_asks_for_the_key_and_stands_in_the_description(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(hash_key("secret"))
    client = connect(keys=tmp_path / "keys")
    document = client.get("/openapi.json").json()
    found = {
        (method, path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if path.startswith("/v1/review")
    }
    assert len(found) == 9
    for (method, path), operation in found.items():
        assert operation["security"] == [{"key": []}]
        response = client.request(method, path.replace("{identity}", "1"))
        assert response.status_code == 401, (method, path)
    assert client.get("/review").status_code == 200


def test_without_a_store_there_is_no_queue(run: Run, trained: Trained) -> None:
    service = Service(lambda _: run, trained.folder, ServerSettings())
    with TestClient(create_app(service)) as client:
        assert client.get("/v1/review/next?reviewer=a").status_code == 404
        assert not [path for path in client.get("/openapi.json").json()["paths"] if "review" in path]


def test_a_threshold_of_no_task_is_refused(run: Run, trained: Trained, tmp_path: Path) -> None:
    settings = ServerSettings.read([f"store={tmp_path / 'store.db'}", "review.thresholds.moon=0.5"])
    with pytest.raises(ConfigError, match=r"thresholds\.moon"):
        Service(lambda _: run, trained.folder, settings)
    assert not (tmp_path / "store.db").exists()


def test_settings_of_reviews_are_set_by_their_path() -> None:
    given = ["store=reviews.db", "review.audit=0.25", "review.thresholds.ner=0.9", "review.keep_texts=true"]
    settings = ServerSettings.read(given)
    assert (settings.review.audit, settings.review.thresholds, settings.review.keep_texts) == (0.25, {"ner": 0.9}, True)
    with pytest.raises(ConfigError, match="audit"):
        ServerSettings.read(["review.audit=2"])
