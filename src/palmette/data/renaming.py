"""Labels that a source calls otherwise than the task does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from palmette.config import Source
from palmette.data.readers.labels import RecordLabel
from palmette.types import Record


class Renaming:
    """Gives a source's labels the names that its `rename:` says, and counts which of them it had.

    Args:
        source: whose records are renamed.
    """

    def __init__(self, source: Source) -> None:
        fields = {task: source.label_field(task) for task in source.labels}
        self._names = {
            task: {str(old): new for old, new in field.rename.items()} for task, field in fields.items() if field.rename
        }
        self._counts: Counter[tuple[str, str]] = Counter()

    def __call__(self, record: Record) -> Record:
        """The record with its labels renamed."""
        if not self._names:
            return record
        return replace(record, labels={task: self._label(task, label) for task, label in record.labels.items()})

    def _label(self, task: str, label: RecordLabel) -> RecordLabel:
        if isinstance(label, tuple):
            return tuple(self._name(task, part) if isinstance(part, str) else part for part in label)  # type: ignore[return-value]
        return self._name(task, label) if isinstance(label, str) else label

    def _name(self, task: str, label: str) -> str:
        names = self._names.get(task, {})
        self._counts[task, label] += label in names
        return names.get(label, label)

    def not_found(self) -> list[str]:
        """Which names no record so far had, as sentences: what was meant may be misspelt, and has kept its old name."""
        missing = {task: [old for old in names if not self._counts[task, old]] for task, names in self._names.items()}
        return [
            f"labels.{task}.rename: no label is called {', '.join(map(repr, names))}"
            for task, names in missing.items()
            if names
        ]
