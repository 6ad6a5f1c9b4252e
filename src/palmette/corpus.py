"""From a configuration to checked, fused examples, with a count of everything that was done to them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from palmette.config import Config, Cut, Source
from palmette.data.fuse import Overlap, fuse, leaks, overlaps
from palmette.data.splits import read_splits
from palmette.errors import ReadError
from palmette.kinds import AnyKind, task_kinds
from palmette.kinds.base import LabelError
from palmette.text import find_words
from palmette.types import SPLITS, Example, Label, Record, Split, Text

logger = logging.getLogger(__name__)


@dataclass
class SplitReport:
    """What happened to one split: nothing is dropped without a number here."""

    read: dict[str, int] = field(default_factory=dict)  # by source
    examples: int = 0
    fused: int = 0
    contradictory: int = 0
    withheld: dict[str, int] = field(default_factory=dict)  # by source: leaks into another source's test
    unlabelled: dict[str, int] = field(default_factory=dict)  # by source: records without any label
    repaired: dict[str, int] = field(default_factory=dict)  # by task: invalid span tags
    unseen: dict[str, dict[str, int]] = field(default_factory=dict)  # by task: labels that training lacks
    labelled: dict[str, int] = field(default_factory=dict)  # by task


@dataclass(frozen=True)
class Corpus:
    """All examples of a run, and the kinds fitted on its training labels."""

    splits: dict[Split, list[Example]]
    kinds: dict[str, AnyKind]
    reports: dict[Split, SplitReport]
    overlaps: list[Overlap]
    licences: dict[str, str | None]

    def warnings(self) -> list[str]:
        """What a user should know, in sentences."""
        found = []
        for split, report in self.reports.items():
            found += [
                f"{task}: {count} invalid span tags in {split} were repaired as conlleval reads them"
                for task, count in report.repaired.items()
            ]
            for task, labels in report.unseen.items():
                names = ", ".join(f"{label} ({count})" for label, count in sorted(labels.items())[:8])
                found.append(f"{task}: {len(labels)} labels of {split} are not in train and count as errors: {names}")
            found += [
                f"{source}: {count} training examples withheld, they are in another source's test"
                for source, count in report.withheld.items()
            ]
            found += [
                f"{source}: {count} records of {split} have no label and are left out"
                for source, count in report.unlabelled.items()
            ]
            if report.contradictory:
                found.append(f"{report.contradictory} inputs of {split} are labelled differently by two sources")
        for overlap in self.overlaps:
            if overlap.train == overlap.held_out:
                found.append(
                    f"{overlap.train}: {overlap.texts} texts of {overlap.split} recur in its own train "
                    f"({overlap.examples} training examples), left in"
                )
        return found

    def summary(self) -> dict[str, Any]:
        """The reports as JSON."""
        return {
            "splits": {split: asdict(report) for split, report in self.reports.items()},
            "overlaps": [asdict(overlap) for overlap in self.overlaps],
            "licences": self.licences,
        }


def source_names(sources: Sequence[Source]) -> list[str]:
    """A short name for each source: its own, or the folder and file of its first file; unique."""
    names: list[str] = []
    for source in sources:
        name = source.name
        if name is None:
            files = next(files for split in SPLITS if (files := getattr(source, split)) and not isinstance(files, Cut))
            path = Path(files if isinstance(files, str) else files[0])
            name = source.path if source.format == "datasets" else path.parent.name or path.stem
        unique, number = name, 2
        while unique in names:
            unique, number = f"{name}-{number}", number + 1
        names.append(unique)
    return names


def load_corpus(
    config: Config,
    *,
    strict: bool = False,
    fields: frozenset[str] = frozenset(),
    fitted: Mapping[str, AnyKind] | None = None,
) -> Corpus:
    """Read every source, check every label, keep leaks out of training, fuse.

    Args:
        config: the run.
        strict: an invalid span tag is an error instead of a counted repair.
        fields: columns or comments to keep with each example, for slices.
        fitted: kinds of a trained model, instead of kinds fitted on this data's training labels.

    Raises:
        ReadError: a file, or a label in it, is not what the configuration says; with file and line.
        ConfigError: a declaration does not fit its kind.
    """
    classes = task_kinds(config)
    reports = {split: SplitReport() for split in SPLITS}
    sources: dict[str, dict[Split, list[Example]]] = {}
    for name, source in zip(source_names(config.sources), config.sources, strict=True):
        language = source.language or config.language
        sources[name] = {}
        for split, records in read_splits(source, fields=fields).items():
            reader = _Reader(config, classes, name, language, reports[split], strict=strict)
            sources[name][split] = [example for record in records if (example := reader.example(record)) is not None]
            reports[split].read[name] = len(records)
    found = overlaps(sources)
    withheld = leaks(sources) if config.withhold_leaks else {}
    for name, positions in withheld.items():
        reports["train"].withheld[name] = len(positions)
        sources[name]["train"] = [e for n, e in enumerate(sources[name]["train"]) if n not in positions]
    splits: dict[Split, list[Example]] = {}
    for split in SPLITS:
        fused = fuse([by_split.get(split, []) for by_split in sources.values()])
        splits[split] = fused.examples
        report = reports[split]
        report.examples, report.fused, report.contradictory = len(fused.examples), fused.fused, fused.contradictory
        report.labelled = dict(Counter(task for example in fused.examples for task in example.labels))
    kinds = dict(fitted) if fitted is not None else _fit(config, classes, splits["train"])
    for split in ("dev", "test"):
        for task, kind in kinds.items():
            unseen = Counter(x for e in splits[split] if task in e.labels for x in kind.unseen(e.labels[task]))
            if unseen:
                reports[split].unseen[task] = dict(unseen)
    licences = {name: s.license for name, s in zip(source_names(config.sources), config.sources, strict=True)}
    return Corpus(splits, kinds, reports, found, licences)


def _fit(config: Config, classes: dict[str, type[AnyKind]], train: Sequence[Example]) -> dict[str, AnyKind]:
    kinds = {}
    for task, kind in classes.items():
        labels: list[Label] = [example.labels[task] for example in train if task in example.labels]
        if not labels:
            raise ReadError(f"tasks.{task}: no source has a training example with this label")
        paired = {example.pair is not None for example in train if task in example.labels}
        state = {**kind.fit(labels), "paired": paired.pop() if len(paired) == 1 else None}
        kinds[task] = kind(task, config.tasks[task], state)
    return kinds


class _Reader:
    """Turns one source's records into examples, counting."""

    def __init__(
        self,
        config: Config,
        classes: dict[str, type[AnyKind]],
        source: str,
        language: str,
        report: SplitReport,
        *,
        strict: bool,
    ) -> None:
        self.config = config
        self.classes = classes
        self.source = source
        self.language = language
        self.report = report
        self.strict = strict

    def example(self, record: Record) -> Example | None:
        """The checked example, or None (counted) where nothing is labelled."""
        if not record.labels:
            self.report.unlabelled[self.source] = self.report.unlabelled.get(self.source, 0) + 1
            return None
        bare = Example(
            text=self._text(record.text),
            labels={},
            pair=None if record.pair is None else self._text(record.pair),
            meta=record.meta,
            sources=(self.source,),
            origin=record.origin,
        )
        labels: dict[str, Label] = {}
        for task, raw in record.labels.items():
            kind, declared = self.classes[task], self.config.tasks[task]
            if kind.inputs != "any" and (kind.inputs == "pair") != (bare.pair is not None):
                wanted = "two texts: set text_pair" if kind.inputs == "pair" else "one text, the source gives two"
                raise ReadError(f"{record.origin}: task {task}: {declared.kind} takes {wanted}")
            try:
                labels[task] = kind.parse(raw, declared, bare)
                repaired = kind.repairs(raw, declared)
            except LabelError as error:
                raise ReadError(f"{record.origin}: task {task}: {error}") from error
            if repaired and self.strict:
                raise ReadError(f"{record.origin}: task {task}: {repaired} tags are invalid in {declared.scheme}")
            if repaired:
                self.report.repaired[task] = self.report.repaired.get(task, 0) + repaired
        return Example(bare.text, labels, bare.pair, bare.meta, bare.sources, bare.origin)

    def _text(self, text: str | tuple[str, ...]) -> Text:
        return Text(words=text) if isinstance(text, tuple) else find_words(text, language=self.language)
