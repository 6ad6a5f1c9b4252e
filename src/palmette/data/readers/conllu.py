"""CoNLL-U, the format of Universal Dependencies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from palmette.config import ConlluSource, LabelField
from palmette.data.files import Line, read_blocks
from palmette.data.readers.comments import Comments, conllu_parser
from palmette.data.readers.labels import RecordLabel, label_of
from palmette.errors import ReadError
from palmette.types import Origin, Record

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_FORM = COLUMNS.index("form")
# In these `_` says that nothing was annotated; in feats and misc it says that there is nothing to say.
_UNSPECIFIED = {"lemma", "upos", "xpos", "head", "deprel", "deps"}


def read_conllu(source: ConlluSource, path: str, *, fields: frozenset[str]) -> Iterator[Record]:
    """The sentences of a file: their syntactic words, without multiword tokens and empty nodes.

    Raises:
        ReadError: with the line of whatever is not CoNLL-U; or for a key (`feats.Gender`, `misc.NER`,
            `comment.topic`) that is nowhere in the file, since it must be mistyped.
    """
    labels = [_Label.parse(task, source.label_field(task), path) for task in source.labels]
    comments = Comments()
    sentences, found = 0, set[str]()
    for block in read_blocks(path):
        origin = Origin(path, block[0][0])
        values = comments.read(line for _, line in block if line.startswith("#"))
        words = _words(block, path)
        if not words:
            continue  # comments alone: a file's header, or a newdoc that stands by itself
        sentences += 1
        read: dict[str, RecordLabel] = {}
        for label in labels:
            value = label.value(words, values)
            if value is None:
                continue
            if value != ("_",) * len(words):
                found.add(label.task)
            shaped = label_of(value, label.field, origin)
            if shaped is not None:
                read[label.task] = shaped
        meta = {field: values[field] for field in sorted(fields) if field in values}
        yield Record(tuple(word[_FORM] for word in words), read, origin, meta=meta)
    for label in labels:
        if sentences and label.key and label.task not in found:
            raise ReadError(f"{path}: labels.{label.task}: nothing in the file has the key {label.field.column!r}")


@dataclass(frozen=True, slots=True)
class _Label:
    """Where a task's label stands: in a column, under a key of a column, or under a key of the comments."""

    task: str
    field: LabelField
    column: str
    key: str

    @classmethod
    def parse(cls, task: str, field: LabelField, path: str) -> _Label:
        column, dot, key = str(field.column).partition(".")
        if (key and column in {"feats", "misc", "comment"}) or (not dot and column in COLUMNS[1:]):
            return cls(task, field, column, key)
        known = ", ".join(COLUMNS[1:])
        raise ReadError(
            f"{path}: labels.{task}: no column {field.column!r}; there are: {known}, feats.KEY, misc.KEY, comment.KEY"
        )

    def value(self, words: list[list[str]], comments: Mapping[str, str]) -> str | tuple[str, ...] | None:
        """What the sentence has there: a tag a word, a comment's value, or None."""
        if self.column == "comment":
            return comments.get(self.key)
        index = COLUMNS.index(self.column)
        if self.key:
            return tuple(_under_key(word[index], self.key) for word in words)
        values = tuple(word[index] for word in words)
        return None if self.column in _UNSPECIFIED and all(value == "_" for value in values) else values


def _words(block: list[Line], path: str) -> list[list[str]]:
    """The columns of a block's words, whose ids must run from 1.

    Columns are split here, and only ids and comments left to the conllu package: its `parse_line` also splits
    at two spaces, which shifts the columns of a word that holds them, and it strips the line.
    """
    words: list[list[str]] = []
    tokens = 0
    for number, line in block:
        if line.startswith("#"):
            continue
        tokens += 1
        columns = line.split("\t")
        if len(columns) != len(COLUMNS):
            raise ReadError(
                f"{path}:{number}: expected {len(COLUMNS)} tab-separated columns, found {len(columns)}: {line[:40]!r}"
            )
        identifier = _identifier(columns[0], f"{path}:{number}")
        if isinstance(identifier, tuple):
            continue  # a multiword token (3-4) or an empty node (8.1)
        if identifier != len(words) + 1:
            raise ReadError(f"{path}:{number}: expected the word with id {len(words) + 1}, found id {columns[0]!r}")
        if not columns[_FORM]:
            raise ReadError(f"{path}:{number}: the word's form is empty")
        words.append(columns)
    if tokens and not words:
        raise ReadError(f"{path}:{block[0][0]}: a sentence without words")
    return words


def _identifier(text: str, where: str) -> object:
    """A word's number; a tuple for a multiword token or an empty node."""
    parser = conllu_parser()
    try:
        return parser.parse_id_value(text)
    except parser.ParseException as error:
        raise ReadError(f"{where}: not a CoNLL-U id: {text!r}") from error


def _under_key(column: str, key: str) -> str:
    """The value of `key` in `A=x|B=y`, or `_`."""
    # not the package's parser: it cuts EWT's Cxn=free=rc-obj to free
    for pair in column.split("|"):
        name, equals, value = pair.partition("=")
        if equals and name == key:
            return value
    return "_"
