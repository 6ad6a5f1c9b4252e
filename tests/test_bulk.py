"""Files in, files out: every row has its row, whatever the form, and a bad one says what is bad about it."""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

import palmette
from fakes import write_jsonl
from palmette.answering import Answerer
from palmette.bulk import parts as parts_module
from palmette.bulk.answers import CHUNK
from palmette.bulk.columns import columns_of, scan
from palmette.bulk.parts import Parts, cut
from palmette.bulk.rows import Row, Section, form_of, parse, read_rows
from palmette.bulk.sinks import dump
from palmette.cli import main
from palmette.errors import MissingExtraError, ReadError, RunError

RECORDS: list[dict[str, Any]] = [
    {"id": 1, "text": "Anna sat in Paris.", "source": "a", "score": 0.5},
    {"id": 2, "text": "", "source": None, "score": 1},
    {"id": 3, "text": "the cat\u2028sat 😀", "source": "b", "score": 2, "tags": ["x", {"y": 1}]},
    {"id": 4, "text": "where is anna", "text_pair": "anna sat in paris", "source": "c"},
]


@pytest.fixture(scope="module")
def model(bundled: Path) -> Answerer:
    return palmette.load(bundled)


Predict = Callable[..., Result]


@pytest.fixture
def predict(bundled: Path) -> Predict:
    def run(source: Path, output: Path, *options: str) -> Result:
        arguments = ["predict", str(bundled), "--input", str(source), "--output", str(output), *options]
        return CliRunner().invoke(main, arguments)

    return run


def lines_of(path: Path) -> list[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode().split("\n") if line]


def rows_of(path: Path, extras: Sequence[str] = ("tags",)) -> list[dict[str, Any]]:
    """A Parquet file's rows in the form of JSON lines."""
    rows = parquet.read_table(path).to_pylist()
    for row in rows:
        for name in ("tasks", *extras):
            if row.get(name) is not None:
                row[name] = json.loads(row[name])
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def without_nulls(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if value is not None} for record in records]


def test_answers_are_the_same_in_every_form(predict: Predict, model: Answerer, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", RECORDS)
    assert predict(Path(source), tmp_path / "a.jsonl").exit_code == 0
    assert predict(Path(source), tmp_path / "a.parquet").exit_code == 0
    names = ("id", "source", "score", "tags", "text", "text_pair")
    columns: dict[str, list[Any]] = {name: [record.get(name) for record in RECORDS] for name in names}
    columns["tags"] = [None if value is None else dump(value).decode() for value in columns["tags"]]
    table = arrow.table(columns)
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=3)
    assert predict(tmp_path / "in.parquet", tmp_path / "b.jsonl.gz").exit_code == 0
    assert predict(tmp_path / "in.parquet", tmp_path / "b.parquet").exit_code == 0
    found = lines_of(tmp_path / "a.jsonl")
    inputs: list[Any] = [(r["text"], r["text_pair"]) if "text_pair" in r else r["text"] for r in RECORDS]
    answers = json.loads(json.dumps(model.predict(inputs)))
    assert found == [{**record, **answer} for record, answer in zip(RECORDS, answers, strict=True)]
    assert list(found[0])[:3] == ["id", "source", "score"]
    assert rows_of(tmp_path / "a.parquet") == without_nulls(found)
    assert rows_of(tmp_path / "b.parquet") == without_nulls(found)
    from_parquet = lines_of(tmp_path / "b.jsonl.gz")
    from_parquet[2]["tags"] = json.loads(from_parquet[2]["tags"])
    assert without_nulls(from_parquet) == without_nulls(found)


def test_many_rows_keep_their_order_and_their_ids(predict: Predict, tmp_path: Path) -> None:
    records = [{"id": number, "text": f"{number} cat " + "good " * (number % 30)} for number in range(1300)]
    source = write_jsonl(tmp_path / "in.jsonl", records)
    for name in ("out.jsonl", "out.parquet"):
        assert predict(Path(source), tmp_path / name, "--tasks", "tone").exit_code == 0
    found = lines_of(tmp_path / "out.jsonl")
    assert [(row["id"], row["text"]) for row in found] == [(r["id"], r["text"]) for r in records]
    assert rows_of(tmp_path / "out.parquet") == found


def test_columns_of_parquet_keep_their_types(predict: Predict, tmp_path: Path) -> None:
    when = datetime(2026, 11, 24, 12, tzinfo=UTC)
    schema = arrow.schema(
        [("when", arrow.timestamp("ms", "UTC")), ("raw", arrow.binary()), ("n", arrow.int8()), ("text", arrow.string())]
    )
    row = {"when": when, "raw": b"\xff", "n": 3, "text": "Anna"}
    parquet.write_table(arrow.Table.from_pylist([row], schema=schema), tmp_path / "in.parquet")
    assert predict(tmp_path / "in.parquet", tmp_path / "out.parquet").exit_code == 0
    assert parquet.read_schema(tmp_path / "out.parquet").types[:3] == schema.types[:3]
    assert predict(tmp_path / "in.parquet", tmp_path / "out.jsonl").exit_code == 0
    found = lines_of(tmp_path / "out.jsonl")[0]
    assert (found["when"], found["raw"], found["n"]) == ("2026-11-24T12:00:00+00:00", "/w==", 3)


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "not json": (b"{", "not JSON"),
    "not utf-8": (b'{"text": "\xff"}', "not UTF-8: byte 0xff at position 11"),
    "no text": (b'{"id": 7}', "expected an object with the key text"),
    "a list": (b"[]", "expected an object"),
    "a number": (b'{"id": 7, "text": 3}', "a text is a string or a list of words"),
    "a bad pair": (b'{"id": 7, "text": "a", "text_pair": 3}', "a text is a string or a list of words"),
    "an answer's column": (b'{"id": 7, "text": "a", "tasks": 3}', "the column 'tasks' is one that answers have"),
    "nested": (b'{"text": ' + b"[" * 100_000, "not JSON"),
    "digits": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "not JSON"),
    "pair for a text task": (b'{"id": 7, "text": "a", "text_pair": "b"}', "none of the tasks tone takes a pair"),
}


@pytest.mark.parametrize(("line", "complaint"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_row_ends_the_command_or_keeps_its_place(
    predict: Predict, tmp_path: Path, line: bytes, complaint: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"id": 1, "text": "good"}\n\n' + line + b'\n{"id": 3, "text": "cat"}\n')
    output = tmp_path / "out.jsonl"
    stopped = predict(source, output, "--tasks", "tone")
    assert stopped.exit_code == 2
    assert f"{source}:3: {complaint}" in stopped.stderr
    assert "the 1 answers before it are in" in stopped.stderr
    assert not output.exists()
    assert [row["id"] for row in lines_of(tmp_path / "out.jsonl.partial")] == [1]
    kept = predict(source, output, "--tasks", "tone", "--bad-rows", "keep")
    assert kept.exit_code == 0, kept.output
    assert f"1 of 3 rows have an error instead of an answer, the first: {source}:3: {complaint}" in kept.stderr
    first, bad, last = lines_of(output)
    assert (first["id"], last["id"]) == (1, 3)
    assert bad["error"].startswith(f"{source}:3: {complaint}")
    assert bad.get("id", 7) == 7
    assert "text" not in bad
    assert predict(source, tmp_path / "out.parquet", "--tasks", "tone", "--bad-rows", "keep").exit_code == 0
    assert rows_of(tmp_path / "out.parquet") == [first, bad, last]


def test_a_bad_row_of_parquet_is_named_by_its_row(predict: Predict, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    parquet.write_table(arrow.table({"text": ["a", None, "b"]}), source)
    assert f"{source}:2: a text is a string" in predict(source, tmp_path / "out.parquet").stderr
    assert parquet.read_table(tmp_path / "out.parquet.partial")["text"].to_pylist() == ["a"]
    assert predict(source, tmp_path / "out.parquet", "--bad-rows", "keep").exit_code == 0
    assert [bool(row.get("error")) for row in rows_of(tmp_path / "out.parquet")] == [False, True, False]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [({"body": ["a"]}, "has no column 'text'"), ({"text": ["a"], "tasks": [1]}, "'tasks' is one that answers have")],
)
def test_a_parquet_file_without_texts_is_refused(
    predict: Predict, tmp_path: Path, columns: dict[str, Any], complaint: str
) -> None:
    parquet.write_table(arrow.table(columns), tmp_path / "in.parquet")
    found = predict(tmp_path / "in.parquet", tmp_path / "out.jsonl", "--bad-rows", "keep")
    assert found.exit_code == 2
    assert complaint in found.stderr


def test_what_is_no_parquet_is_refused(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"PAR1 not")
    found = predict(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert (found.exit_code, "cannot be read as Parquet" in found.stderr) == (2, True)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"palmette\[parquet\]"):
        list(read_rows(Section(tmp_path / "in.parquet", "parquet")))


def test_standard_input_cannot_become_parquet_since_its_types_are_not_known(bundled: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(bundled), "--input", "-", "--output", str(tmp_path / "out.parquet")]
    refused = CliRunner().invoke(main, [*arguments, "--format", "jsonl"], input='{"text": "a"}\n')
    assert (refused.exit_code, "give them as a file" in refused.stderr) == (2, True)
    taken = CliRunner().invoke(main, arguments, input="Anna\r\n\ncat")
    assert taken.exit_code == 0, taken.output
    assert [row["text"] for row in rows_of(tmp_path / "out.parquet")] == ["Anna", "", "cat"]


def test_parquet_is_not_compressed_twice(bundled: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["predict", str(bundled), "a", "--output", str(tmp_path / "out.parquet.gz")])
    assert (done.exit_code, "let its name end in .parquet" in done.output) == (2, True), done.output


def test_arguments_can_be_written_to_a_file_too(bundled: Path, tmp_path: Path, model: Answerer) -> None:
    output = tmp_path / "out.parquet"
    done = CliRunner().invoke(main, ["predict", str(bundled), "Anna sat.", "cat", "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert rows_of(output) == json.loads(json.dumps(model.predict(["Anna sat.", "cat"])))


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.txt", "text"), ("a.jsonl", "jsonl"), ("a.jsonl.gz", "jsonl"), ("a.parquet", "parquet"), ("-", "text")],
)
def test_the_name_says_the_form(name: str, form: str) -> None:
    assert form_of(Path(name)) == form


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON), max_size=6))
def test_any_value_of_json_fits_the_column_that_a_scan_finds_for_it(records: list[dict[str, Any]]) -> None:
    columns = {column.name: column for column in scan(Row("", "", record) for record in records)}
    schema = arrow.schema([(column.name, column.arrow()) for column in columns.values()])
    rows = [{name: columns[name].fit(value) for name, value in record.items()} for record in records]
    found = arrow.Table.from_pylist(rows, schema=schema).to_pylist() if columns else rows
    for record, row in zip(records, found, strict=True):
        for name, value in record.items():
            read = row[name]
            if columns[name].type == "json" and value is not None:
                read = json.loads(read)
            assert read == value


def test_half_a_surrogate_pair_goes_through(tmp_path: Path) -> None:
    row = parse('{"text": "a", "id": "\\ud800"}', "here")
    assert json.loads(dump(row.extra)) == {"id": "\ud800"}
    assert scan([row])[0].fit("\ud800") == "\ufffd"


def test_sections_of_a_file_are_the_file(tmp_path: Path) -> None:
    table = arrow.table({"text": [str(n) for n in range(40)]})
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=7)
    whole = list(read_rows(Section(tmp_path / "in.parquet", "parquet")))
    assert [row.given for row in whole] == [str(n) for n in range(40)]
    for size in (1, 5, 7, 14, 40):
        cut = [Section(tmp_path / "in.parquet", "parquet", first=n + 1, lines=size) for n in range(0, 40, size)]
        assert [row for section in cut for row in read_rows(section)] == whole


@given(st.lists(st.text(alphabet="ab\u2028\n\r", max_size=9), max_size=30), st.integers(1, 7), st.booleans())
def test_parts_of_any_text_are_the_text(texts: list[str], lines: int, ended: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.txt"
        path.write_bytes(("\n".join(texts) + "\n" * ended).encode())
        whole = list(read_rows(Section(path, "text")))
        parts = [list(read_rows(section)) for section in cut(path, "text", lines=lines)]
    assert [row for part in parts for row in part] == whole
    assert all(len(part) == lines for part in parts[:-1])
    assert not parts or parts[-1]


def test_parts_are_found_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "_BLOCK", 13)
    monkeypatch.setattr(parts_module, "_MOST", 4)
    path = tmp_path / "in.txt"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(100)))
    found = cut(path, "text", lines=7)
    assert [(section.first, section.lines) for section in found] == [(1, 28), (29, 28), (57, 28), (85, 28)]
    assert [row.given for section in found for row in read_rows(section)] == [str(number) for number in range(100)]


def test_what_has_no_parts_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(b"{}"))
    for path, complaint in ((packed, "is compressed"), (Path("-"), "has no parts"), (tmp_path / "no", "no such file")):
        with pytest.raises(ReadError, match=complaint):
            cut(path, "jsonl")


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_parts_put_together_are_the_file_that_is_written_at_once(
    predict: Predict, model: Answerer, tmp_path: Path, name: str
) -> None:
    records = [{"id": number, "text": f"{number} cat " + "good " * (number % 9)} for number in range(1300)]
    source = Path(write_jsonl(tmp_path / "in.jsonl", [*records, {"id": "last", "text": 3}]))
    (tmp_path / "whole").mkdir()
    assert predict(source, tmp_path / "whole" / name, "--tasks", "tone", "--bad-rows", "keep").exit_code == 0
    columns = columns_of(Section(source, "jsonl")) if name == "out.parquet" else ()
    parts = Parts(tmp_path / name, cut(source, "jsonl", lines=CHUNK), columns)
    parts.prepare({"a": 1})
    counts = [parts.answer(number, model, tasks=["tone"], keep=True) for number in reversed(range(3))]
    assert [parts.finished(number) for number in range(4)] == [*reversed(counts), None]
    assert [(count.rows, count.bad) for count in counts] == [(277, 1), (512, 0), (512, 0)]
    parts.join()
    assert not parts.folder.exists()
    read = rows_of if name == "out.parquet" else lines_of
    assert read(tmp_path / name) == read(tmp_path / "whole" / name)


def test_parts_of_another_job_are_left_alone(model: Answerer, tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.jsonl", [], ())
    parts.prepare({"input": ["a", 1], "tasks": None})
    parts.prepare({"input": ["a", 1], "tasks": None})
    with pytest.raises(RunError, match=r"holds parts of another job \(tasks differ\): delete it, or give --output"):
        parts.prepare({"input": ["a", 1], "tasks": ["pos"]})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for form in ("text", "jsonl", "parquet"):
        with pytest.raises(ReadError, match="no such file"):
            list(read_rows(Section(tmp_path / "absent", form)))
