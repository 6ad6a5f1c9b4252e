"""Every format: what is written is read back, what is malformed is one clear error, and real files are readable."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from palmette.config import JsonlSource, Source, SourceConfig
from palmette.data.readers import READERS, read
from palmette.data.splits import read_splits
from palmette.errors import MissingExtraError, ReadError
from palmette.types import Answer, Record

DATA = Path(os.environ.get("PALMETTE_DATA", Path(__file__).parents[2] / "shared" / "data"))
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"no corpora in {DATA} (set PALMETTE_DATA to their folder)")

# what str.splitlines, str.split and str.strip treat as white space, and what formats give a meaning to
AWKWARD = "\u2028\u2029\x85\x0b\x0c\x1c\xa0 \"'#,;=|_-\\"


def texts(forbidden: str, *, min_size: int = 0) -> st.SearchStrategy[str]:
    characters = st.characters(exclude_categories=["Cs"], exclude_characters=forbidden)
    awkward = st.sampled_from([character for character in AWKWARD if character not in forbidden])
    return st.text(st.one_of(st.sampled_from("abc"), awkward, characters), min_size=min_size, max_size=8)


TAGS = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "NOUN", "#"])


@dataclass(frozen=True)
class Container:
    """How lines become bytes."""

    newline: str
    mark: bool
    zipped: bool
    ended: bool

    def encode(self, lines: Sequence[str]) -> bytes:
        content = (self.newline.join(lines) + (self.newline if self.ended else "")).encode()
        content = b"\xef\xbb\xbf" + content if self.mark else content
        return gzip.compress(content) if self.zipped else content


CONTAINERS = st.builds(Container, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans(), st.booleans())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


def pairs(record: Record) -> list[tuple[str, str]]:
    """Each word with its tag."""
    tags = record.labels["task"]
    assert isinstance(tags, tuple)
    return [(word, str(tag)) for word, tag in zip(record.text, tags, strict=True)]


def source_of(**settings: Any) -> SourceConfig:
    source: SourceConfig = TypeAdapter(Source).validate_python({"labels": {"task": 1}} | settings)
    return source


def read_content(
    content: bytes | str, folder: Path, *, name: str = "file.txt", fields: Iterable[str] = (), **settings: Any
) -> list[Record]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read(source_of(train=str(path), **settings), "train", fields=frozenset(fields)))


# ---- what is written is read back ------------------------------------------------------------------------------


@st.composite
def sentences(draw: st.DrawFn, words: st.SearchStrategy[str]) -> list[list[tuple[str, str]]]:
    return draw(st.lists(st.lists(st.tuples(words, TAGS), min_size=1, max_size=5), min_size=1, max_size=4))


@given(sentences(texts("\t\n\r")), CONTAINERS, st.sampled_from(["", "\t", " "]))
def test_columns_are_read_back(
    folder: Path, written: list[list[tuple[str, str]]], container: Container, blank: str
) -> None:
    lines = [line for sentence in written for line in [*(f"{word}\t{tag}" for word, tag in sentence), blank, blank]]
    records = read_content(container.encode(lines), folder, format="columns")
    assert [pairs(record) for record in records] == written


@given(sentences(texts("\t\n\r")), CONTAINERS)
def test_columns_tell_comments_from_tokens_that_begin_with_a_hash(
    folder: Path, written: list[list[tuple[str, str]]], container: Container
) -> None:
    written = [[("plain", "O"), *sentence] for sentence in written]
    lines = []
    for number, sentence in enumerate(written):
        lines += [f"# sent_id = s{number}", "# loose remark", *(f"{word}\t{tag}" for word, tag in sentence), ""]
    records = read_content(container.encode(lines), folder, format="columns", comments=True, fields=["sent_id", "no"])
    assert [pairs(record) for record in records] == written
    assert [record.meta for record in records] == [{"sent_id": f"s{number}"} for number in range(len(written))]


def test_a_tab_in_the_text_of_a_comment_makes_no_token(tmp_path: Path) -> None:
    lines = ["# id = 1", "# text = a\tb", "a\tO", "# b\tO", "", "#\tO"]
    records = read_content("\n".join(lines), tmp_path, format="columns", comments=True, fields=["id"])
    assert [pairs(record) for record in records] == [[("a", "O"), ("# b", "O")], [("#", "O")]]
    assert records[0].meta == {"id": "1"}


@pytest.mark.parametrize("delimiter", ["space", "whitespace", "tab"])
def test_a_comment_with_as_many_fields_as_a_token_is_a_comment(tmp_path: Path, delimiter: str) -> None:
    space = "\t" if delimiter == "tab" else " "
    lines = ["# id = 12", *(space.join(fields) for fields in (("a", "x", "O", "."), ("#", "x", "O", ".")))]
    layout: dict[str, Any] = {"format": "columns", "delimiter": delimiter, "labels": {"t": 2}}
    (record,) = read_content("\n".join(lines), tmp_path, **layout, comments=True, fields=["id"])
    assert (record.text, record.meta) == (("a", "#"), {"id": "12"})


def test_a_question_s_line_is_its_own_though_an_answer_reads_like_its_id(tmp_path: Path) -> None:
    answers = [{"text": "2", "answer_start": 0}], [{"text": "2", "answer_start": 1}]
    questions = [{"id": str(n), "question": "q", "answers": found} for n, found in enumerate(answers, start=1)]
    document = {"data": [{"paragraphs": [{"context": "2 x", "qas": questions}]}]}
    written = json.dumps(document, indent=1)
    line = written[: written.index('"id": "2"')].count("\n") + 1
    with pytest.raises(ReadError, match=rf":{line}: "):
        read_content(written, tmp_path, name="q.json", format="squad", labels={"qa": "answers"})


def test_a_quoted_text_may_be_long(tmp_path: Path) -> None:
    (record,) = read_content(
        f'text,y\n"{"a, " * 70_000}",b\n', tmp_path, name="a.csv", format="table", text="text", labels={"t": "y"}
    )
    assert len(record.text) == 210_000


@given(sentences(texts("\t\n\r ", min_size=1)), st.sampled_from([("space", " "), ("whitespace", " \t  ")]))
def test_columns_with_other_delimiters_are_read_back(
    folder: Path, written: list[list[tuple[str, str]]], delimiter: tuple[str, str]
) -> None:
    content = "\n\n".join("\n".join(delimiter[1].join(pair) for pair in sentence) for sentence in written)
    records = read_content(content, folder, format="columns", delimiter=delimiter[0])
    assert [pairs(record) for record in records] == written


@given(sentences(texts("\t\n\r", min_size=1)), CONTAINERS, st.data())
def test_conllu_is_read_back(
    folder: Path, written: list[list[tuple[str, str]]], container: Container, data: st.DataObject
) -> None:
    lines: list[str] = []
    starts: list[int] = []
    for number, sentence in enumerate(written):
        starts.append(len(lines) + 1)
        lines.append(f"# topic = t {number}")
        for index, (word, tag) in enumerate(sentence, 1):
            if data.draw(st.booleans()):
                lines.append(f"{index}-{index + 1}\tmultiword" + "\t_" * 8)
            lines.append(f"{index}\t{word}\t_\t{tag}\t_\tCase=Nom|Tag={tag}\t_\t_\t_\tNER={tag}|Cxn=a=b")
            if data.draw(st.booleans()):
                lines.append(f"{index}.1\tempty" + "\t_" * 8)
        lines.append("")
    labels = {"pos": "upos", "tag": "feats.Tag", "ner": "misc.NER", "cxn": "misc.Cxn", "topic": "comment.topic"}
    records = read_content(container.encode(lines), folder, format="conllu", labels=labels | {"lemma": "lemma"})
    assert [record.origin.line for record in records] == starts
    for number, (record, sentence) in enumerate(zip(records, written, strict=True)):
        words, tags = zip(*sentence, strict=True)
        assert record.text == words
        expected = {"pos": tags, "tag": tags, "ner": tags, "cxn": ("a=b",) * len(tags), "topic": f"t {number}"}
        assert record.labels == expected


ROWS = st.lists(st.tuples(texts("\t\n"), st.sampled_from(["yes", "no"])), min_size=1, max_size=6)


@given(ROWS, CONTAINERS, st.integers(0, 3))
def test_unquoted_tables_are_read_back(
    folder: Path, rows: list[tuple[str, str]], container: Container, blank: int
) -> None:
    lines = ["text\tlabel", *("\t".join(row) for row in rows), *[""] * blank]
    records = read_content(container.encode(lines), folder, format="table", text="text", labels={"task": "label"})
    assert [(record.text, record.labels["task"]) for record in records] == rows
    assert [record.origin.line for record in records] == [*range(2, len(rows) + 2)]


@given(
    st.lists(st.tuples(texts("\r") | texts("\r").map("a\nb".__add__), st.sampled_from(["yes", "no"]))),
    st.booleans(),
    CONTAINERS,
)
def test_quoted_tables_are_read_back(
    folder: Path, rows: list[tuple[str, str]], header: bool, container: Container
) -> None:
    buffer, lines = io.StringIO(), []
    writer = csv.writer(buffer, lineterminator="\n", delimiter=";")
    for row in [("text", "label")] * header + rows:
        lines.append(buffer.getvalue().count("\n") + 1)
        writer.writerow(row)
    records = read_content(
        container.encode(buffer.getvalue().removesuffix("\n").split("\n")),
        folder,
        format="table",
        delimiter="semicolon",
        header=header,
        text="text" if header else 0,
        labels={"task": "label" if header else 1},
    )
    assert [(record.text, record.labels["task"]) for record in records] == rows
    assert [record.origin.line for record in records] == lines[header:]


@given(
    st.lists(st.tuples(texts("") | st.lists(texts("")), st.lists(st.sampled_from("xyz")))), st.booleans(), CONTAINERS
)
def test_json_lines_are_read_back(
    folder: Path, rows: list[tuple[str | list[str], list[str]]], ascii_only: bool, container: Container
) -> None:
    lines = [json.dumps({"in": {"text": text}, "set": label}, ensure_ascii=ascii_only) for text, label in rows]
    records = read_content(
        container.encode([*lines, ""]), folder, format="jsonl", text="in.text", labels={"task": "set"}
    )
    expected = [(tuple(text) if isinstance(text, list) else text, tuple(label)) for text, label in rows]
    assert [(record.text, record.labels["task"]) for record in records] == expected


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(texts(""), st.sampled_from(["yes", None]), st.lists(texts(""))), max_size=5), st.booleans())
def test_parquet_is_read_back(folder: Path, rows: list[tuple[str, str | None, list[str]]], zipped: bool) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    text, labels, words = ([row[index] for row in rows] for index in range(3))
    kinds = [arrow.string(), arrow.string(), arrow.list_(arrow.string())]
    columns = [arrow.array(column, kind) for column, kind in zip([text, labels, words], kinds, strict=True)]
    buffer = io.BytesIO()
    parquet.write_table(arrow.table(columns, ["text", "label", "words"]), buffer)
    content = gzip.compress(buffer.getvalue()) if zipped else buffer.getvalue()
    records = read_content(
        content, folder, format="parquet", text="words", labels={"task": "label", "words": "words"}, fields=["text"]
    )
    assert [(record.meta["text"], record.labels.get("task"), list(record.text)) for record in records] == rows
    assert [record.labels["words"] for record in records] == [record.text for record in records]
    assert [record.origin.line for record in records] == [*range(1, len(rows) + 1)]


@given(
    st.lists(
        st.tuples(
            texts("", min_size=1), texts(""), st.lists(st.tuples(st.integers(0, 7), st.integers(1, 8)), max_size=3)
        ),
        max_size=5,
    ),
    st.sampled_from([None, 1]),
    CONTAINERS,
)
def test_squad_is_read_back(
    folder: Path, rows: list[tuple[str, str, list[tuple[int, int]]]], indent: int | None, container: Container
) -> None:
    paragraphs, expected = [], []
    for number, (context, question, spans) in enumerate(rows):
        answers = [(start, context[start : start + size]) for start, size in spans if start < len(context)]
        listed = [{"text": text, "answer_start": start} for start, text in answers * 2]
        item = {"id": f"q{number}", "question": question, "answers": listed, "is_impossible": not listed}
        paragraphs.append({"context": context, "qas": [item]})
        expected.append((question, context, tuple(Answer(*answer) for answer in dict.fromkeys(answers)), f"q{number}"))
    document = json.dumps({"data": [{"title": "T", "paragraphs": paragraphs}]}, indent=indent)
    lines = document.split("\n")
    records = read_content(
        container.encode(lines), folder, format="squad", labels={"task": "answers"}, fields=["id", "title"]
    )
    assert [(r.text, r.pair, r.labels["task"], r.meta["id"]) for r in records] == expected
    assert all(f'"{record.meta["id"]}"' in lines[record.origin.line - 1] for record in records)


def test_datasets_folders_are_read_with_class_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
            "topic": datasets.ClassLabel(names=["news", "mail"]),
            "score": datasets.Value("float64"),
            "document": datasets.Value("int32"),
        }
    )
    rows = {
        "tokens": [["Ada", "wrote"], ["so"]],
        "tags": [[1, 0], [-1]],
        "topic": [1, -1],
        "score": [0.5, None],
        "document": [7, 7],
    }
    datasets.DatasetDict({"training": datasets.Dataset.from_dict(rows, features=features)}).save_to_disk(
        tmp_path / "set"
    )
    labels = {"ner": "tags", "topic": "topic", "score": "score", "types": {"column": "tags", "span_types": True}}
    settings: dict[str, Any] = {"format": "datasets", "path": str(tmp_path / "set"), "text": "tokens", "labels": labels}
    first, second = read(source_of(train="training", **settings), "train", fields=frozenset({"document", "nowhere"}))
    assert (first.text, first.meta) == (("Ada", "wrote"), {"document": "7"})
    assert first.labels == {"ner": ("B-PER", "O"), "topic": "mail", "score": 0.5, "types": ("PER",)}
    assert (second.text, second.labels, second.origin.line) == (("so",), {}, 2)
    with pytest.raises(ReadError, match=r"no split 'dev'; there are: training"):
        list(read(source_of(dev="dev", **settings), "dev"))
    with pytest.raises(ReadError, match=r"labels.ner: no column 'tgs'; there are: tokens, tags"):
        list(read(source_of(train="training", **settings | {"labels": {"ner": "tgs"}}), "train"))


def test_a_missing_datasets_folder_is_a_read_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    source = source_of(format="datasets", path=str(tmp_path / "none"), train="train", text="text")
    with pytest.raises(ReadError, match="none: split 'train' cannot be loaded"):
        list(read(source, "train"))


# ---- labels, texts, fields -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "spec", "expected"),
    [
        ("a", {}, "a"),
        (3, {}, "3"),
        (2.5, {}, 2.5),
        (True, {}, "true"),
        ([], {}, ()),
        (["a", 1, False], {}, ("a", "1", "false")),
        ("a # b##", {"separator": "#"}, ("a", "b")),
        ("#", {"separator": "#"}, ()),
        (["O", "B-b.c-d", "I-b.c-d", "U-a"], {"span_types": True}, ("a", "b.c-d")),
        ("O B-x O", {"separator": " ", "span_types": True}, ("x",)),
        ({"text": ["b", "b"], "answer_start": [1, 1]}, {}, (Answer(1, "b"),)),
        ([{"text": "b", "answer_start": 1}, {"text": "ab", "answer_start": 0}], {}, (Answer(1, "b"), Answer(0, "ab"))),
        ({"text": [], "answer_start": []}, {}, ()),
    ],
)
def test_values_become_labels(tmp_path: Path, value: object, spec: dict[str, Any], expected: object) -> None:
    settings: dict[str, Any] = {
        "format": "jsonl",
        "text": "text",
        "text_pair": "pair",
        "labels": {"task": {"column": "y"} | spec},
    }
    (record,) = read_content(json.dumps({"text": "t", "pair": "abc", "y": value}), tmp_path, **settings)
    assert record.labels == {"task": expected}
    assert type(record.labels["task"]) is type(expected)


@pytest.mark.parametrize("row", [{}, {"y": None}, {"y": ""}, {"y": [None]}, {"y": float("nan")}])
def test_what_is_missing_is_no_label(tmp_path: Path, row: dict[str, Any]) -> None:
    content = json.dumps({"text": "t"} | row)
    (record,) = read_content(content, tmp_path, format="jsonl", text="text", labels={"task": "y", "deep": "y.z"})
    assert record.labels == {}


def test_an_empty_cell_is_no_label(tmp_path: Path) -> None:
    records = read_content("text\ty\na\t\nb\t0\n", tmp_path, format="table", text="text", labels={"task": "y"})
    assert [record.labels for record in records] == [{}, {"task": "0"}]


@pytest.mark.parametrize(
    ("value", "spec", "message"),
    [
        ({"a": 1}, {}, "y: cannot be a label"),
        (["a", None], {}, "y: a list label holds strings, found None"),
        (["a"], {"separator": "#"}, "y: separator splits one string"),
        ("a", {"span_types": True}, "y: span_types needs a list of tags"),
        ({"text": ["c"], "answer_start": [0]}, {}, "answer 'c' is not at 0, where the passage has 'a'"),
        ({"text": [""], "answer_start": [0]}, {}, "expected a text and its start"),
        (float("inf"), {}, "must be finite"),
    ],
)
def test_what_cannot_be_a_label_is_an_error_with_its_line(
    tmp_path: Path, value: object, spec: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {
        "format": "jsonl",
        "text": "text",
        "text_pair": "pair",
        "labels": {"task": {"column": "y"} | spec},
    }
    content = "\n" + json.dumps({"text": "t", "pair": "abc", "y": value})
    with pytest.raises(ReadError, match=f"file.txt:2: .*{message}"):
        read_content(content, tmp_path, **settings)


def test_texts_of_words_joined_by_spaces_are_split(tmp_path: Path) -> None:
    content = "a  b\xa0c \td\tx\n"
    settings: dict[str, Any] = {"format": "table", "text": 0, "text_pair": 1, "labels": {"task": 2}, "header": False}
    (record,) = read_content(content, tmp_path, pretokenized=True, **settings)
    assert (record.text, record.pair) == (("a", "b\xa0c"), ("d",))


def test_fields_are_kept_where_the_source_has_them(tmp_path: Path) -> None:
    content = json.dumps({"text": "t", "y": "a", "n": 3, "deep": {"b": True}, "null": None})
    fields = ["n", "deep.b", "null", "absent"]
    (record,) = read_content(content, tmp_path, format="jsonl", text="text", labels={"task": "y"}, fields=fields)
    assert record.meta == {"n": "3", "deep.b": "true"}
    (record,) = read_content("a,b,c", tmp_path, name="x.csv", format="table", header=False, text=0, fields=["2", "9"])
    assert record.meta == {"2": "c"}


def test_a_document_lasts_until_the_next(tmp_path: Path) -> None:
    line = "1\ta\t_\tX\t_\t_\t_\t_\t_\t_\n\n"
    content = f"{line}# newdoc id = d1\n\n{line}# sent_id = s\n{line}# newdoc id = d2\n{line}# newdoc\n{line}"
    records = read_content(content, tmp_path, format="conllu", labels={"task": "upos"}, fields=["newdoc id", "sent_id"])
    assert [record.meta.get("newdoc id") for record in records] == [None, "d1", "d1", "d2", None]
    assert [record.meta.get("sent_id") for record in records] == [None, None, "s", None, None]


def test_a_conllu_sentence_without_tags_has_no_label(tmp_path: Path) -> None:
    rest = "\t_" * 6
    content = f"1\ta\t_\t_{rest}\n2\tb\t_\t_{rest}\n\n1\ta\t_\tX{rest}\n2\tb\t_\t_{rest}\n"
    records = read_content(content, tmp_path, format="conllu", labels={"task": "upos"})
    assert [record.labels for record in records] == [{}, {"task": ("X", "_")}]


def test_squad_questions_may_be_impossible_or_unlabelled(tmp_path: Path) -> None:
    questions = [
        {"id": "a", "question": "A?", "answers": [{"text": "x", "answer_start": 0}], "is_impossible": True},
        {"id": "b", "question": "B?"},
        {"id": "c", "question": "C?", "answers": [{"text": "y", "answer_start": 1}], "is_impossible": False},
    ]
    content = json.dumps({"data": [{"paragraphs": [{"context": "xy", "qas": questions}]}]})
    records = read_content(content, tmp_path, format="squad", labels={"qa": "answers"}, fields=["title"])
    assert [record.labels for record in records] == [{"qa": ()}, {}, {"qa": (Answer(1, "y"),)}]
    assert all(record.meta == {} for record in records)


def test_several_files_are_read_in_order(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(f"text\ty\n{name}\t1\n")
    source = source_of(format="table", text="text", train=[str(tmp_path / name) for name in "ba"], labels={"task": "y"})
    assert [record.text for record in read(source, "train")] == ["b", "a"]


# ---- what is malformed -----------------------------------------------------------------------------------------

CONLLU = {"format": "conllu", "labels": {"task": "upos"}}
COLUMNS = {"format": "columns"}
TABLE = {"format": "table", "text": "text", "labels": {"task": "y"}}
JSONL = {"format": "jsonl", "text": "text", "labels": {"task": "y"}}
PARQUET = {"format": "parquet", "text": "text", "labels": {"task": "y"}}
SQUAD = {"format": "squad", "labels": {"task": "answers"}}
GOOD = "1\ta" + "\t_" * 8


def squad(answers: object, **question: object) -> str:
    qas = [
        {"id": "other", "question": "?", "answers": []},
        {"id": "q1", "question": "?", "answers": answers} | question,
    ]
    return json.dumps({"data": [{"paragraphs": [{"context": "passage", "qas": qas}]}]}, indent=0)


MALFORMED: list[tuple[dict[str, Any], bytes | str, str]] = [
    (CONLLU, f"{GOOD}\n2\tb\t_\n", r":2: expected 10 tab-separated columns, found 3: '2\\tb\\t_'"),
    (CONLLU, f"{GOOD}\n3\tb{GOOD[3:]}\n", r":2: expected the word with id 2, found id '3'"),
    (CONLLU, f"{GOOD}\n1x\tb{GOOD[3:]}\n", r":2: not a CoNLL-U id: '1x'"),
    (CONLLU, f"# c\n1\t{GOOD[3:]}\n", r":2: the word's form is empty"),
    (CONLLU, f"# c\n1-2\ta{GOOD[3:]}\n", r":1: a sentence without words"),
    (CONLLU | {"labels": {"task": "pos"}}, GOOD, r"labels.task: no column 'pos'; there are: form, lemma, upos"),
    (CONLLU | {"labels": {"task": "upos.X"}}, GOOD, r"labels.task: no column 'upos.X'"),
    (CONLLU | {"labels": {"task": "feats."}}, GOOD, r"labels.task: no column 'feats.'"),
    (CONLLU | {"labels": {"task": "feats.Gendre"}}, GOOD, r"nothing in the file has the key 'feats.Gendre'"),
    (CONLLU | {"labels": {"task": "comment.topic"}}, GOOD, r"nothing in the file has the key 'comment.topic'"),
    (CONLLU, b"# c\n1\t\xff", r":2: not UTF-8: byte 0xff at position 3"),
    (COLUMNS, "a\tO\n\nb\tO\tx\n", r":3: expected 2 tab-separated columns, found 3: 'b\\tO\\tx'"),
    (COLUMNS, "a O\n", r":1: labels.task is column 1, but the first token line has 1 tab-separated columns"),
    (COLUMNS, "# id = 1\na\tO\n", r":1: labels.task is column 1.*set comments: true"),
    (COLUMNS, "a\tO\n# id = 1\n", r":2: expected 2 tab-separated columns, found 1.*set comments: true"),
    (COLUMNS | {"labels": {"task": "tag"}}, "a\tO\n", r":1: labels.task is column 'tag'"),
    (COLUMNS | {"delimiter": "space"}, "a O\nb  O\n", r":2: expected 2 space-separated columns, found 3"),
    (COLUMNS, b"a\tO\n\xc3\tO\n", r":2: not UTF-8: byte 0xc3 at position 1"),
    (COLUMNS, gzip.compress(b"a\tO\n" * 9)[:-9], r":\d+: cannot be read"),
    (TABLE, "text\ty\na\n", r":2: expected 2 columns, found 1: \['a'\]"),
    (TABLE, "text\ty\na\tb\tc\n", r":2: expected 2 columns, found 3: .*extra_columns: true"),
    (TABLE | {"extra_columns": True}, "text\ty\na\tb\tc\nd\n", r":3: expected 2 columns, found 1"),
    (TABLE, "text\ty\n\na\tb\n", r":2: a blank line between rows"),
    (TABLE, "txt\ty\na\tb\n", r":1: text: no column 'text'; there are: txt, y"),
    (TABLE, "text\ty\ty\na\tb\tc\n", r":1: labels.task: more than one column 'y'"),
    (TABLE | {"header": False}, "text\ty\n", r":1: text: no column 'text'; there are: 0, 1"),
    (TABLE | {"header": False, "text": 2}, "text\ty\n", r":1: text: no column 2; there are: 0, 1"),
    (TABLE | {"quoting": True}, 'text\ty\n"a\nb"\tc\n"d\ne\n', r":4: the row that begins here is not CSV"),
    (TABLE | {"quoting": True}, 'text\ty\n"a\nb"\tc\n"d"e\tf\n', r":4: the row that begins here is not CSV"),
    (TABLE | {"quoting": True}, 'text\ty\n"a\nb"\tc\nd\n', r":4: expected 2 columns, found 1"),
    (TABLE, b"text\ty\na\xe9\tb\n", r":2: not UTF-8: byte 0xe9 at position 2"),
    (JSONL, '{"text": "a"}\n{"text": \n', r":2: not JSON"),
    (JSONL, '{"text": "a"}\n["a"]\n', r":2: expected a JSON object, found '\[\"a\"\]'"),
    (JSONL, '{"text": "a"}\n{"y": "a"}\n', r":2: no text: text is missing or null"),
    (JSONL, '{"text": null}\n', r":1: no text: text is missing or null"),
    (JSONL, '{"text": 3}\n', r":1: text: a text is a string or a list of words, found 3"),
    (JSONL, '{"text": ["a", null]}\n', r":1: text: a text is a string or a list of words"),
    (JSONL, '{"text": "a\\ud800"}\n', r":1: text: not Unicode text: lone surrogate"),
    (JSONL, '{"text": "a", "y": "\\ud800"}\n', r":1: y: not Unicode text: lone surrogate"),
    (JSONL, '{"text": ["a"], "y": ["\\ud800"]}\n', r":1: y: not Unicode text: lone surrogate"),
    (JSONL | {"text_pair": "b"}, '{"text": "a"}\n', r":1: no text: b is missing or null"),
    (JSONL, b'{"text": "a"}\n{"text": "\xff"}\n', r":2: not UTF-8"),
    (PARQUET, "no parquet", r": cannot be read as Parquet"),
    (SQUAD, squad([{"text": "age", "answer_start": 5}]), r":1[0-9]: question q1: answer 'age' is not at 5, .* 'ge'"),
    (SQUAD, squad([{"text": "age", "answer_start": -3}]), r":1[0-9]: question q1: expected a text and its start"),
    (
        SQUAD,
        squad([{"text": "age"}]),
        r":17: data\[0\].paragraphs\[0\].qas\[1\].answers\[0\]: expected 'answer_start' \(",
    ),
    (SQUAD, squad([], question=None), r":13: data\[0\].paragraphs\[0\].qas\[1\]: expected 'question' \(str\)"),
    (SQUAD, '{"data": [{}]}', r":1: data\[0\]: expected 'paragraphs' \(list\)"),
    (SQUAD, '{"v": {"data": [1]},\n"data": [{"paragraphs": [\n],\n"x": "]"},\n3]}', r":5: data\[1\]: expected 'par"),
    (SQUAD, "\n[]", r":2: expected 'data' \(list\)"),
    (SQUAD, '{\n"data": [}', r":2: not JSON"),
    (SQUAD, b'{\n"data": "\xff"}', r":2: not UTF-8: byte 0xff"),
    (SQUAD | {"labels": {"task": "answer"}}, "{}", r"labels.task: SQuAD files have one label, answers"),
]


@pytest.mark.parametrize(("settings", "content", "message"), MALFORMED, ids=[case[2] for case in MALFORMED])
def test_malformed_input_is_one_clear_error(
    tmp_path: Path, settings: dict[str, Any], content: bytes | str, message: str
) -> None:
    with pytest.raises(ReadError, match=rf"file\.txt{message}" if message.startswith(":") else message) as caught:
        read_content(content, tmp_path, **settings)
    assert str(caught.value).startswith(str(tmp_path / "file.txt"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [CONLLU, COLUMNS, TABLE, JSONL, PARQUET, SQUAD], ids=lambda case: case["format"])
def test_a_file_that_is_not_there_is_a_read_error(tmp_path: Path, settings: dict[str, Any]) -> None:
    for path, message in {
        tmp_path / "no": "no such file",
        tmp_path: "is a folder",
        tmp_path / "x.gz": "not gzip",
    }.items():
        (tmp_path / "x.gz").write_text("plain")
        with pytest.raises(ReadError, match=message):
            list(read(source_of(train=str(path), **settings), "train"))


def test_parquet_names_its_columns_when_one_is_missing(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": ["a"], "label": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ReadError, match=r"x.parquet: labels.task: no column 'y'; there are: text, label"):
        list(read(source_of(train=str(tmp_path / "x.parquet"), **PARQUET), "train"))


@pytest.mark.parametrize(("package", "settings"), [("conllu", CONLLU), ("pyarrow", PARQUET), ("datasets", None)])
def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, settings: dict[str, Any] | None
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed: pip install 'palmette\[train\]'"):
        read_content(GOOD, tmp_path, **(settings or {"format": "datasets", "path": "hub/id", "text": "text"}))


def test_reading_imports_neither_torch_nor_what_the_format_does_not_need() -> None:
    code = "import sys, palmette.data.splits; print({'torch', 'datasets', 'pyarrow', 'conllu'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_format_has_a_reader() -> None:
    assert set(READERS) == set(SourceConfig.__subclasses__())


# ---- real files, by configuration alone ------------------------------------------------------------------------


def splits(folder: str, train: str, dev: str | None = None, test: str | None = None) -> dict[str, str]:
    named = {"train": train, "dev": dev, "test": test}
    return {split: f"{folder}/{name}" for split, name in named.items() if name is not None}


def by_name(folder: str, ending: str, *, test: bool = True) -> dict[str, str]:
    return splits(folder, f"train.{ending}", f"dev.{ending}", f"test.{ending}" if test else None)


UNER = {"format": "columns", "text_column": 1, "labels": {"ner": 2}, "comments": True}
SLOTS = {
    "format": "jsonl",
    "text": "tokens",
    "labels": {"slots": "slots", "intent": {"column": "intent", "separator": "#"}},
}
TWEETS = {"format": "table", "text": "text", "labels": {"task": "label"}}
STANFORD = {"format": "table", "text": "sentence", "labels": {"task": "label"}, "pretokenized": True}

CORPORA: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "ewt": (
        CONLLU
        | splits("ud_english_ewt", *(f"en_ewt-ud-{name}" for name in ("train.conllu.gz", "dev.conllu", "test.conllu"))),
        {"train": 12544, "dev": 2001, "test": 2077},
    ),
    "afribooms": (
        CONLLU
        | splits("ud_afrikaans_afribooms", *(f"af_afribooms-ud-{name}.conllu" for name in ("train", "dev", "test"))),
        {"train": 1315, "dev": 194, "test": 425},
    ),
    "uner_en": (
        UNER | splits("uner_english_ewt", *(f"en_ewt-ud-{name}.iob2" for name in ("train", "dev", "test"))),
        {"train": 12543, "dev": 2001, "test": 2077},
    ),
    "uner_da": (
        UNER | splits("uner_danish_ddt", *(f"da_ddt-ud-{name}.iob2" for name in ("train", "dev", "test"))),
        {"train": 4383, "dev": 564, "test": 565},
    ),
    "btc": (COLUMNS | splits("btc", "train.conll", "dev.conll"), {"train": 6338, "dev": 1001}),
    "wnut17": (
        COLUMNS | splits("wnut17", "wnut17train.conll", "emerging.dev.conll", "emerging.test.first644.annotated"),
        {"train": 3394, "dev": 1009, "test": 644},
    ),
    "atis": (SLOTS | by_name("intent_atis", "jsonl"), {"train": 4478, "dev": 500, "test": 893}),
    "snips": (SLOTS | by_name("intent_snips", "jsonl"), {"train": 13084, "dev": 700, "test": 700}),
    "banking77": (
        {"format": "table", "text": "text", "labels": {"intent": "category"}}
        | splits("intent_banking77", "train.csv", None, "test.csv"),
        {"train": 10003, "test": 3080},
    ),
    "clinc150": (
        {
            "format": "jsonl",
            "text": "text",
            "labels": {"intent": "intent"},
            "train": ["intent_clinc150/train.jsonl", "intent_clinc150/oos_train.jsonl"],
            "dev": ["intent_clinc150/val.jsonl", "intent_clinc150/oos_val.jsonl"],
            "test": ["intent_clinc150/test.jsonl", "intent_clinc150/oos_test.jsonl"],
        },
        {"train": 15100, "dev": 3100, "test": 5500},
    ),
    "rte": (
        {"format": "table", "text": "sentence1", "text_pair": "sentence2", "labels": {"task": "label"}}
        | by_name("rte", "tsv", test=False),
        {"train": 2490, "dev": 277},
    ),
    "sick": (
        {"format": "table", "text": "sentence_A", "text_pair": "sentence_B"}
        | {"labels": {"judgment": "entailment_judgment", "score": "relatedness_score"}}
        | splits("sick", "SICK_train.txt", "SICK_trial.txt", "SICK_test_annotated.txt"),
        {"train": 4500, "dev": 500, "test": 4927},
    ),
    "sst2": (STANFORD | by_name("sst2", "tsv"), {"train": 6920, "dev": 872, "test": 1821}),
    "sst5": (STANFORD | by_name("sst5", "tsv"), {"train": 8544, "dev": 1101, "test": 2210}),
    "stsb": (
        {"format": "table", "delimiter": "tab", "header": False, "extra_columns": True}
        | {"text": 5, "text_pair": 6, "labels": {"score": 4}}
        | splits("stsb", "sts-train.csv", "sts-dev.csv", "sts-test.csv"),
        {"train": 5749, "dev": 1500, "test": 1379},
    ),
    "tweeteval_emotion": (TWEETS | by_name("tweeteval_emotion", "tsv"), {"train": 3257, "dev": 374, "test": 1421}),
    "tweeteval_irony": (TWEETS | by_name("tweeteval_irony", "tsv"), {"train": 2862, "dev": 955, "test": 784}),
    "tweeteval_sentiment": (TWEETS | by_name("tweeteval_sentiment", "tsv", test=False), {"train": 8000, "dev": 2000}),
    "squad": (
        SQUAD
        | splits(
            "squad",
            "squadshifts_new_wiki_v1.0.json",
            "squadshifts_reddit_v1.0.json",
            "xquad.en.first24articles.json",
        ),
        {"train": 7938, "dev": 9803, "test": 632},
    ),
    "scitldr": (
        {"format": "jsonl", "text": "source", "labels": {"title": "title"}}
        | splits("scitldr", "train.jsonl", "dev.jsonl", "test_first309.jsonl"),
        {"train": 1992, "dev": 619, "test": 309},
    ),
}


def corpus(name: str) -> dict[str, list[Record]]:
    settings = dict(CORPORA[name][0])
    for split in ("train", "dev", "test"):
        files = settings.get(split)
        if files is not None:
            settings[split] = str(DATA / files) if isinstance(files, str) else [str(DATA / file) for file in files]
    return read_splits(source_of(**settings), fields=frozenset({"sent_id"}))


@real
@pytest.mark.parametrize("name", CORPORA)
def test_real_files_lose_no_example_and_no_label(name: str) -> None:
    settings, counts = CORPORA[name]
    read = corpus(name)
    assert {split: len(records) for split, records in read.items()} == counts
    tasks = source_of(**settings).labels.keys()
    assert all(record.labels.keys() == tasks for records in read.values() for record in records)


WORDS = {
    "ewt": {"train": 204577, "dev": 25147, "test": 25094},
    "afribooms": {"train": 33878, "dev": 5317, "test": 10063},
    "uner_da": {"train": 80378, "dev": 10332, "test": 10023},
    "wnut17": {"train": 62730, "dev": 15733},
}


@real
@pytest.mark.parametrize("name", WORDS)
def test_real_files_lose_no_word(name: str) -> None:
    read = corpus(name)
    assert {split: sum(len(record.text) for record in read[split]) for split in WORDS[name]} == WORDS[name]


@real
def test_tokens_that_begin_with_a_hash_or_are_blank_stay_tokens() -> None:
    tweets = corpus("btc")
    lines = [line for split in tweets for line in (DATA / "btc" / f"{split}.conll").read_bytes().split(b"\n")]
    expected = [line.split(b"\t")[0].decode() for line in lines if line.strip()]
    found = [word for records in tweets.values() for record in records for word in record.text]
    assert found == expected
    assert any(word.startswith("#") for word in found)
    assert "" in found


@real
def test_comments_of_columns_and_conllu_name_the_same_sentences() -> None:
    treebank = {record.meta["sent_id"]: record for record in corpus("ewt")["dev"]}
    entities = corpus("uner_en")["dev"]
    assert sum(treebank[record.meta["sent_id"]].text == record.text for record in entities) == 1998


@real
def test_questions_about_one_passage_stay_on_one_side_of_a_cut() -> None:
    path = str(DATA / "squad" / "squadshifts_reddit_v1.0.json")
    cut = {"fraction": 0.1, "group_by": "context"}
    read = read_splits(source_of(format="squad", train=path, dev=cut, labels={"task": "answers"}))
    train, dev = ({record.pair for record in records} for records in read.values())
    assert not train & dev
    assert len(dev) == 203  # a tenth of 2,033 passages


def test_lists_of_sentences_are_joined_where_the_source_says_so(tmp_path: Path) -> None:
    row = {"source": ["One sentence.", "Another one."], "target": ["Short.", "Shorter."]}
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    declared = {"format": "jsonl", "train": str(path), "text": "source", "labels": {"tldr": "target"}}
    (words,) = read(JsonlSource(**declared), "train")
    (text,) = read(JsonlSource(**declared, sentences=True), "train")
    assert words.text == ("One sentence.", "Another one.")
    assert text.text == "One sentence. Another one."
    assert text.labels["tldr"] == ("Short.", "Shorter.")


@real
def test_scitldr_is_read_as_abstracts_with_their_references() -> None:
    files = {"train": "train.jsonl", "dev": "dev.jsonl", "test": "test_first309.jsonl"}
    source = JsonlSource.model_validate(
        {split: str(DATA / "scitldr" / name) for split, name in files.items()}
        | {"format": "jsonl", "text": "source", "sentences": True, "labels": {"tldr": "target"}}
    )
    splits = read_splits(source)
    assert {split: len(list(records)) for split, records in splits.items()} == {"train": 1992, "dev": 619, "test": 309}
    first = next(iter(read(source, "test")))
    assert isinstance(first.text, str)
    assert isinstance(first.labels["tldr"], tuple)
