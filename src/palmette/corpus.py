"""From a configuration to checked, fused examples, with a count of everything that was done to them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from palmette.config import Config, Cut, Source
from palmette.data.fuse import Overlap, find_leakage, fuse
from palmette.data.readers import files_of
from palmette.data.renaming import Renaming
from palmette.data.splits import read_splits
from palmette.errors import ReadError
from palmette.kinds import AnyKind, check_family, task_kinds
from palmette.kinds.base import LabelError
from palmette.types import SPLITS, Example, Label, Record, Split, Text
from palmette.words import check_language, find_words


@dataclass
class SplitReport:
    """What happened to one split: nothing is dropped without a number here."""

    read: dict[str, int] = field(default_factory=dict)  # by source
    examples: int = 0
    fused: int = 0
    contradictory: int = 0
    withheld: dict[str, int] = field(default_factory=dict)  # by source: leaks into another source's test
    reduced: dict[str, int] = field(default_factory=dict)  # by task: examples that train_fraction leaves out
    unlabelled: dict[str, int] = field(default_factory=dict)  # by source: records without any label
    missing: dict[str, list[str]] = field(default_factory=dict)  # by source: tasks that none of its records labels
    repaired: dict[str, int] = field(default_factory=dict)  # by task: invalid span tags
    unseen: dict[str, dict[str, int]] = field(default_factory=dict)  # by task: labels that training lacks
    labelled: dict[str, int] = field(default_factory=dict)  # by task

    def warnings(self, split: Split) -> list[str]:
        """What a user should know of it, in sentences."""
        found = [
            f"{task}: {count} invalid span tags in {split} were repaired as conlleval reads them"
            for task, count in self.repaired.items()
        ]
        for task, labels in self.unseen.items():
            names = ", ".join(f"{label} ({count})" for label, count in sorted(labels.items())[:8])
            found.append(f"{task}: {len(labels)} labels of {split} are not in train and count as errors: {names}")
        found += [
            f"{source}: {count} training examples withheld, they are in another source's test"
            for source, count in self.withheld.items()
        ]
        found += [
            f"{task}: train_fraction leaves {count} of its {count + self.labelled.get(task, 0)} training examples out"
            for task, count in self.reduced.items()
        ]
        found += [
            f"{source}: {count} records of {split} have no label and are left out"
            for source, count in self.unlabelled.items()
        ]
        found += [
            f"{source}: no record of {split} has a label for {', '.join(tasks)}: is the column or key right?"
            for source, tasks in self.missing.items()
        ]
        if self.contradictory:
            found.append(f"{self.contradictory} inputs of {split} are labelled differently by two sources")
        return found


@dataclass(frozen=True)
class Corpus:
    """All examples of a run, and the kinds fitted on its training labels."""

    splits: dict[Split, list[Example]]
    kinds: dict[str, AnyKind]
    reports: dict[Split, SplitReport]
    overlaps: list[Overlap]
    licences: dict[str, str | None]
    not_found: list[str]  # what a source renames and does not have, as sentences

    def warnings(self) -> list[str]:
        """What a user should know, in sentences."""
        found = [line for split, report in self.reports.items() for line in report.warnings(split)] + self.not_found
        own: dict[str, list[str]] = {}
        for overlap in self.overlaps:
            if overlap.source == overlap.held_out:
                line = f"{overlap.recurring} {overlap.held_out_split} examples recur in {overlap.split}"
                own.setdefault(overlap.source, []).append(line)
        found += [f"{source}: its own splits overlap, left in: {', '.join(lines)}" for source, lines in own.items()]
        return found

    def summary(self) -> dict[str, Any]:
        """The reports as JSON."""
        return {
            "splits": {split: asdict(report) for split, report in self.reports.items()},
            "overlaps": [asdict(overlap) for overlap in self.overlaps],
            "licences": self.licences,
        }


@dataclass(frozen=True)
class Sources:
    """Every source's examples by split as they were read, before anything is withheld or fused."""

    examples: dict[str, dict[Split, list[Example]]]
    reports: dict[Split, SplitReport]
    not_found: list[str]


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
    any_family: bool = False,
) -> Corpus:
    """Read every source, check every label, keep leaks out of training, fuse.

    Args:
        config: the run.
        strict: an invalid span tag is an error instead of a counted repair.
        fields: columns or comments to keep with each example, for slices.
        fitted: kinds of a trained model, instead of kinds fitted on this data's training labels.
        any_family: the tasks are for regimes of several families; else each must fit the configuration's.

    Raises:
        ReadError: a file, or a label in it, is not what the configuration says; with file and line.
        ConfigError: a declaration does not fit its kind.
    """
    if not any_family:
        check_family(config)
    return assemble(config, read_sources(config, strict=strict, fields=fields), fitted=fitted)


def read_sources(config: Config, *, strict: bool = False, fields: frozenset[str] = frozenset()) -> Sources:
    """Read every source and check every label; nothing is fused or withheld yet.

    Raises:
        ReadError, ConfigError: see `load_corpus`.
    """
    classes = task_kinds(config)
    check_language(config.language, config.where("language"))
    for number, source in enumerate(config.sources):
        if source.language is not None:
            check_language(source.language, config.where("sources", number, "language"))
    reports = {split: SplitReport() for split in SPLITS}
    examples: dict[str, dict[Split, list[Example]]] = {}
    not_found: list[str] = []
    for name, source in zip(source_names(config.sources), config.sources, strict=True):
        language = source.language or config.language
        renaming = Renaming(source)
        examples[name] = {}
        for split, records in read_splits(source, fields=fields).items():
            reader = _Reader(config, classes, name, language, reports[split], strict=strict)
            renamed = map(renaming, records)
            examples[name][split] = [example for record in renamed if (example := reader.example(record)) is not None]
            reports[split].read[name] = len(records)
            missing = [task for task in source.labels if not any(task in e.labels for e in examples[name][split])]
            if missing:
                reports[split].missing[name] = missing
        not_found += [f"{name}: {line}" for line in renaming.not_found()]
    return Sources(examples, reports, not_found)


def assemble(config: Config, sources: Sources, *, fitted: Mapping[str, AnyKind] | None = None) -> Corpus:
    """Keep leaks out of training, fuse, reduce tasks to their `train_fraction`, fit the kinds.

    Args:
        config: the run.
        sources: what `read_sources` read; its reports go on into the corpus.
        fitted: see `load_corpus`.
    """
    reports = sources.reports
    leakage = find_leakage(sources.examples, withhold=config.withhold_leaks)
    kept: dict[str, dict[Split, list[Example]]] = {name: dict(splits) for name, splits in sources.examples.items()}
    for name, positions in leakage.withheld.items():
        reports["train"].withheld[name] = len(positions)
        kept[name]["train"] = [e for n, e in enumerate(kept[name]["train"]) if n not in positions]
    splits: dict[Split, list[Example]] = {}
    for split in SPLITS:
        fused = fuse([by_split.get(split, []) for by_split in kept.values()])
        report, examples = reports[split], fused.examples
        if split == "train":
            examples, report.reduced = _reduce(examples, config)
        splits[split] = examples
        report.examples, report.contradictory = len(examples), fused.contradictory
        report.fused = sum(len(example.sources) > 1 for example in examples)
        report.labelled = dict(Counter(task for example in examples for task in example.labels))
    kinds = dict(fitted) if fitted is not None else _fit(config, task_kinds(config), splits["train"])
    for split in ("dev", "test"):
        for task, kind in kinds.items():
            for example in splits[split]:
                if task in example.labels and not kind.takes(example):
                    found, wanted = ("one text", "pairs") if example.pair is None else ("a pair", "single texts")
                    raise ReadError(f"{example.origin}: task {task}: {found}, but training has {wanted}")
            unseen = Counter(x for e in splits[split] if task in e.labels for x in kind.unseen(e.labels[task]))
            if unseen:
                reports[split].unseen[task] = dict(unseen)
    licences = {name: s.license for name, s in zip(source_names(config.sources), config.sources, strict=True)}
    return Corpus(splits, kinds, reports, leakage.overlaps, licences, sources.not_found)


def _reduce(examples: list[Example], config: Config) -> tuple[list[Example], dict[str, int]]:
    """Take a task's label from the examples that its `train_fraction` leaves out; one without any label left goes.

    Returns:
        The examples, and how many lost the label of each task.
    """
    reduced: dict[str, int] = {}
    for task, declared in config.tasks.items():
        if declared.train_fraction == 1:
            continue
        labelled = [number for number, example in enumerate(examples) if task in example.labels]
        # The same order whatever the seed, the other tasks and the fraction, so that regimes train on the same texts
        # and a curve's smaller sets are parts of its larger ones. Repetitions of a text keep their order.
        labelled.sort(key=lambda number: _digest(examples[number]))
        left_out = set(labelled[max(1, round(declared.train_fraction * len(labelled))) :])
        if left_out:
            reduced[task] = len(left_out)
            examples = [
                replace(example, labels={t: label for t, label in example.labels.items() if t != task})
                if number in left_out
                else example
                for number, example in enumerate(examples)
            ]
    return [example for example in examples if example.labels], reduced


def _digest(example: Example) -> bytes:
    """A number that depends on the example's words alone, as bytes."""
    words = "\x1e".join("\x1f".join(words) for words in example.key)
    return hashlib.sha256(words.encode(errors="surrogatepass")).digest()


def _fit(config: Config, classes: dict[str, type[AnyKind]], train: Sequence[Example]) -> dict[str, AnyKind]:
    kinds = {}
    for task, kind in classes.items():
        labels: list[Label] = [example.labels[task] for example in train if task in example.labels]
        if not labels:
            places = "; ".join(
                f"{source.label_field(task).column!r} of {', '.join(files_of(source, 'train'))}"
                for source in config.sources
                if task in source.labels and files_of(source, "train")
            )
            where = f"it was looked for in {places}" if places else "no source that has it has a train split"
            raise ReadError(f"{config.where('tasks', task)}: no training example has this label: {where}")
        paired = {example.pair is not None for example in train if task in example.labels}
        try:
            fitted = kind.fit(labels)
        except LabelError as error:
            raise ReadError(f"tasks.{task}: {error}") from error
        state = {**fitted, "paired": paired.pop() if len(paired) == 1 else None}
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
        self.report = report
        self.strict = strict
        # A passage comes once a question, and its questions in a row: words are found, and kept, once.
        self._find_words = lru_cache(maxsize=64)(partial(find_words, language=language))

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
        return Text(words=text) if isinstance(text, tuple) else self._find_words(text)
