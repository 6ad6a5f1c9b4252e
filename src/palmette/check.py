"""What is in the data of a configuration: counts, labels, lengths, repetitions, leaks, licences, sampling. No torch."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text as Markup

from palmette.config import Config
from palmette.corpus import Corpus, Sources, assemble, read_sources, source_names
from palmette.data.fuse import Key, Overlap
from palmette.kinds import AnyKind, check_family
from palmette.kinds.extractive_qa import ExtractiveQA
from palmette.licences import UNSTATED, strictest
from palmette.mixing import Mixing, sampling_rates
from palmette.text import TextEncoder
from palmette.types import SPLITS, Answer, Example, Label, Split, Text

__all__ = ["Report", "check", "render", "strictest"]

_CHUNK = 2048  # texts that are cut into subwords at a time
_SPECIAL = 16  # more special tokens than any trunk puts into a row
_CONFLICTS = 3  # contradictions that are shown of each task
_TOP = 8  # labels that are shown of each task
_NOTHING = "-"
_ROWS = 16  # overlaps, and warnings, that are shown


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of a task's examples, of all splits; of a pair, both texts together."""

    median: float
    p95: float
    maximum: int


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether examples fit into the trunk, special tokens included.

    Attributes:
        windowed: examples by split that are read in several windows.
        truncated: those of which something is not read even so.
    """

    windowed: Mapping[Split, int]
    truncated: Mapping[Split, int]


@dataclass(frozen=True, slots=True)
class Balance:
    """How evenly a task's training labels are spread.

    Attributes:
        largest: the most frequent label.
        share: its share of all labels.
        entropy: of the distribution, divided by that of an even one: 1 is even, 0 is a single label.
    """

    largest: str
    share: float
    entropy: float


@dataclass(frozen=True, slots=True)
class Values:
    """The numbers that a regression task has in one split."""

    minimum: float
    mean: float
    maximum: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Reading:
    """One of several labels of the same text. `origin` is file:line."""

    label: str
    origin: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """A text that one task labels in several ways inside a split."""

    split: Split
    text: str
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class TaskReport:
    """What a task learns from, after leaks were withheld and sources fused.

    Attributes:
        examples: labelled examples by split.
        labels: how often each label occurs, by split: classes, tags, or the types of spans.
        only_held_out: labels that are in dev or test and not in train.
        blank: examples by split whose label is empty: no span, no class of a set.
        balance: of the training labels, where the kind has labels.
        values: by split, where the labels are numbers.
        unanswerable: share of questions without an answer by split, for extractive QA.
        subwords, fit: None where no trunk was given.
        duplicates: examples by split beyond the first of the same text and label.
        contradictory: texts by split that are labelled in more than one way.
        conflicts: a few of them.
        draws: how often an epoch draws each of its examples.
        share: which part of an epoch's draws carries the task; an example with two tasks counts for both.
    """

    kind: str
    metric: str
    examples: Mapping[Split, int]
    labels: Mapping[str, Mapping[Split, int]]
    only_held_out: tuple[str, ...]
    blank: Mapping[Split, int]
    balance: Balance | None
    values: Mapping[Split, Values]
    unanswerable: Mapping[Split, float]
    words: Lengths
    subwords: Lengths | None
    fit: Fit | None
    duplicates: Mapping[Split, int]
    contradictory: Mapping[Split, int]
    conflicts: tuple[Conflict, ...]
    draws: float
    share: float


@dataclass(frozen=True, slots=True)
class SourceReport:
    """A source as it was read."""

    format: str
    records: Mapping[Split, int]
    tasks: tuple[str, ...]
    language: str
    licence: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that `palmette check` says.

    Attributes:
        examples: by split, after leaks were withheld and sources fused.
        fused: examples by split that carry labels of several sources.
        contradictory: inputs by split that two sources label differently; they stay apart.
        withheld: training examples by source that stand in another source's test.
        withholds: whether the configuration withholds them.
        leakage: texts that recur in a later split, of the same source or of another.
        licence: the strictest of the sources' licences.
        limit: longest row of the trunk in subwords; None where no trunk was given.
    """

    tasks: Mapping[str, TaskReport]
    sources: Mapping[str, SourceReport]
    examples: Mapping[Split, int]
    fused: Mapping[Split, int]
    contradictory: Mapping[Split, int]
    withheld: Mapping[str, int]
    withholds: bool
    leakage: tuple[Overlap, ...]
    licence: str
    limit: int | None
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        report = asdict(self)
        report["leakage"] = [asdict(overlap) | {"fate": fate(overlap)} for overlap in self.leakage]
        return report


def check(config: Config, *, strict: bool = False, encoder: TextEncoder | None) -> Report:
    """Read every source of a configuration and report what is in it.

    Args:
        config: the run.
        strict: an invalid span tag is an error instead of a counted repair.
        encoder: cuts texts as the trunk reads them; without it nothing is said of subwords and windows.

    Raises:
        ReadError: a file, or a label in it, is not what the configuration says; with file and line.
        ConfigError: a declaration does not fit its kind.
    """
    if not config.families:  # else it is a study's
        check_family(config)
    sources = read_sources(config, strict=strict)
    corpus = assemble(config, sources)
    mixing = Mixing.of(config, corpus.splits["train"])
    draws = sampling_rates(mixing)
    sizes = {split: _sizes(examples, encoder) for split, examples in corpus.splits.items()}
    conflicts = _conflicts(corpus, sources)
    reports = corpus.reports
    return Report(
        tasks={
            task: _task(task, kind, corpus, sizes, conflicts[task], draws=draws[task], total=mixing.total)
            for task, kind in corpus.kinds.items()
        },
        sources={
            name: SourceReport(
                format=source.format,
                records={split: report.read[name] for split, report in reports.items() if name in report.read},
                tasks=tuple(source.labels),
                language=source.language or config.language,
                licence=source.license,
            )
            for name, source in zip(source_names(config.sources), config.sources, strict=True)
        },
        examples={split: report.examples for split, report in reports.items()},
        fused={split: report.fused for split, report in reports.items()},
        contradictory={split: report.contradictory for split, report in reports.items()},
        withheld=dict(reports["train"].withheld),
        withholds=config.withhold_leaks,
        leakage=tuple(corpus.overlaps),
        licence=strictest(corpus.licences.values()),
        limit=None if encoder is None else encoder.max_length,
        warnings=tuple(corpus.warnings()),
    )


def fate(overlap: Overlap) -> str:
    """What was done about an overlap: `reported` (left in), `withheld`, or how many of its examples were."""
    if not overlap.withheld:
        return "reported"
    return "withheld" if overlap.withheld == overlap.examples else f"{overlap.withheld:,} withheld"


def _task(
    task: str,
    kind: AnyKind,
    corpus: Corpus,
    sizes: Mapping[Split, _Sizes],
    conflicts: tuple[Conflict, ...],
    *,
    draws: float,
    total: int,
) -> TaskReport:
    chosen = {split: [n for n, e in enumerate(corpus.splits[split]) if task in e.labels] for split in SPLITS}
    gold = {split: [corpus.splits[split][n].labels[task] for n in numbers] for split, numbers in chosen.items()}
    items = {split: [kind.items(label) for label in labels] for split, labels in gold.items()}
    counts = {split: Counter(name for found in all_items for _, name in found) for split, all_items in items.items()}
    names = sorted(set().union(*counts.values()), key=lambda name: (-sum(c[name] for c in counts.values()), name))
    repeated = {split: _repeated(task, [corpus.splits[split][n] for n in chosen[split]]) for split in SPLITS}
    numbers = all(isinstance(label, float) for label in gold["train"])
    questions = isinstance(kind, ExtractiveQA)
    return TaskReport(
        kind=kind.config.kind,
        metric=kind.metric,
        examples={split: len(labels) for split, labels in gold.items()},
        labels={name: {split: counts[split][name] for split in SPLITS} for name in names},
        only_held_out=tuple(name for name in names if not counts["train"][name]),
        blank={split: sum(not found for found in items[split]) for split in SPLITS} if names else {},
        balance=_balance(counts["train"]),
        values={split: _values(labels) for split, labels in gold.items() if labels} if numbers else {},
        unanswerable=(
            {split: sum(not label for label in labels) / len(labels) for split, labels in gold.items() if labels}
            if questions
            else {}
        ),
        words=_lengths([sizes[split].words[chosen[split]] for split in SPLITS]),
        subwords=_subword_lengths(sizes, chosen),
        fit=_fit(sizes, chosen),
        duplicates={split: duplicates for split, (duplicates, _) in repeated.items()},
        contradictory={split: len(texts) for split, (_, texts) in repeated.items()},
        conflicts=conflicts,
        draws=draws,
        share=draws * len(chosen["train"]) / total,
    )


def _balance(counts: Counter[str]) -> Balance | None:
    total = counts.total()
    if not total:
        return None
    largest, most = min(counts.items(), key=lambda item: (-item[1], item[0]))
    entropy = -sum(count / total * math.log(count / total) for count in counts.values())
    return Balance(largest, most / total, entropy / math.log(len(counts)) if len(counts) > 1 else 0.0)


def _values(labels: Sequence[Label]) -> Values:
    values = np.array(labels, dtype=np.float64)
    return Values(float(values.min()), float(values.mean()), float(values.max()), float(values.std()))


# --- lengths ---


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Of every example of a split: [examples]. Without a trunk the last three are None."""

    words: NDArray[np.int64]
    subwords: NDArray[np.int64] | None
    windowed: NDArray[np.bool_] | None
    truncated: NDArray[np.bool_] | None


def _sizes(examples: Sequence[Example], encoder: TextEncoder | None) -> _Sizes:
    words = np.array([sum(map(len, example.key)) for example in examples], dtype=np.int64)
    if encoder is None:
        return _Sizes(words, None, None, None)
    # Each distinct text once: a passage of SQuAD comes with several questions.
    distinct = list(dict.fromkeys(part for example in examples for part in example.key))
    length: dict[tuple[str, ...], int] = {}
    for start in range(0, len(distinct), _CHUNK):
        chunk = distinct[start : start + _CHUNK]
        found = encoder.subwords([Text(part) for part in chunk])
        length |= {part: len(subwords.ids) for part, subwords in zip(chunk, found, strict=True)}
    subwords = np.array([sum(length[part] for part in example.key) for example in examples], dtype=np.int64)
    windowed, truncated = np.zeros(len(examples), dtype=bool), np.zeros(len(examples), dtype=bool)
    for number in np.flatnonzero(subwords + _SPECIAL > encoder.max_length).tolist():
        rows = encoder.encode([examples[number]])[0].rows
        windowed[number], truncated[number] = len(rows) > 1, any(row.truncated for row in rows)
    return _Sizes(words, subwords, windowed, truncated)


def _lengths(parts: Sequence[NDArray[np.int64]]) -> Lengths:
    lengths = np.concatenate(parts)
    median, p95 = np.percentile(lengths, [50, 95])
    return Lengths(float(median), float(p95), int(lengths.max()))


def _subword_lengths(sizes: Mapping[Split, _Sizes], chosen: Mapping[Split, list[int]]) -> Lengths | None:
    parts = [size.subwords[chosen[split]] for split, size in sizes.items() if size.subwords is not None]
    return _lengths(parts) if parts else None


def _fit(sizes: Mapping[Split, _Sizes], chosen: Mapping[Split, list[int]]) -> Fit | None:
    windowed = {s: int(size.windowed[chosen[s]].sum()) for s, size in sizes.items() if size.windowed is not None}
    truncated = {s: int(size.truncated[chosen[s]].sum()) for s, size in sizes.items() if size.truncated is not None}
    return Fit(windowed, truncated) if windowed else None


# --- repetitions ---


def _repeated(task: str, examples: Sequence[Example]) -> tuple[int, list[Key]]:
    """How many examples repeat a text and its label, and the texts whose labels differ, in order of appearance."""
    found: dict[Key, Counter[Hashable]] = defaultdict(Counter)
    for example in examples:
        found[example.key][example.labels[task]] += 1
    duplicates = sum(labels.total() - len(labels) for labels in found.values())
    return duplicates, [key for key, labels in found.items() if len(labels) > 1]


def _conflicts(corpus: Corpus, sources: Sources) -> dict[str, tuple[Conflict, ...]]:
    """A few contradictions of each task, with the file and line of each reading."""
    wanted: dict[tuple[str, Split, Key], dict[Label, Example]] = {}
    for task in corpus.kinds:
        for split, examples in corpus.splits.items():
            texts = _repeated(task, [example for example in examples if task in example.labels])[1]
            wanted |= {(task, split, key): {} for key in texts[:_CONFLICTS]}
    # A fused example keeps the origin of one source only, so the readings are looked for where they were read.
    keys = {key for _, _, key in wanted}
    for splits in sources.examples.values():
        for split, examples in splits.items():
            for example in examples:
                for task, label in example.labels.items() if example.key in keys else ():
                    if (task, split, example.key) in wanted:
                        wanted[task, split, example.key].setdefault(label, example)
    found: dict[str, list[Conflict]] = {task: [] for task in corpus.kinds}
    for (task, split, key), readings in wanted.items():
        labels = list(readings)
        free = corpus.kinds[task].form == "text"
        found[task].append(
            Conflict(
                split,
                _shorten(" / ".join(" ".join(words) for words in key), 80),
                tuple(
                    Reading(_shorten(_describe(label, labels, key, free=free), 80), str(example.origin))
                    for label, example in readings.items()
                ),
            )
        )
    return {task: tuple(conflicts[:_CONFLICTS]) for task, conflicts in found.items()}


def _describe(label: Label, others: Sequence[Label], key: Key, *, free: bool) -> str:
    """A label as a person reads it (`free`: reference texts); of tags only those that the readings disagree on."""
    if isinstance(label, frozenset):
        return ", ".join(sorted(label)) or "none"
    if not isinstance(label, tuple):
        return str(label)
    if not label:
        return "unanswerable"
    if isinstance(label[0], Answer):
        # Of several references only those that not every reading has, where there are such.
        shared = set.intersection(*(set(other) for other in others if isinstance(other, tuple)))
        answers = [answer for answer in label if isinstance(answer, Answer)]
        own = [answer for answer in answers if answer not in shared] or answers
        return " | ".join(f"{answer.text} ({answer.start})" for answer in own)
    if free:
        return " | ".join(map(str, label))
    differ = [n for n in range(len(label)) if len({other[n] for other in others if isinstance(other, tuple)}) > 1]
    return " ".join(f"{key[0][n]}/{label[n]}" for n in differ)


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


# --- what a person sees ---


def render(report: Report, console: Console) -> None:
    """Print a report as tables that fit 100 columns; long lists are cut and say by how much."""
    _print(console, "Sources", _sources_table(report))
    _print(
        console,
        "Tasks",
        _tasks_table(report),
        "draws each: how often an epoch draws an example; share: of all its draws",
    )
    _print(console, "Labels in train (* only in dev or test)", _labels_table(report))
    if report.limit is None:
        note = "no trunk was loaded: subwords, windows and truncation are left out"
    else:
        note = f"the trunk reads {report.limit} subwords at a time; longer texts are windowed"
    _print(console, "Lengths: median, 95 %, longest", _lengths_table(report), note)
    if any(any((*task.duplicates.values(), *task.contradictory.values())) for task in report.tasks.values()):
        note = "duplicates: same text and label, beyond the first; contradictory: same text, several labels"
        _print(console, "Repetitions inside a split", _repetitions_table(report), note)
        _print_conflicts(report, console)
    if report.leakage:
        note = "reported: left in, since no other source's test has the text, or the source's own test has it, too"
        if not report.withholds:
            note = "withhold_leaks is off: nothing is kept out of training"
        if len(report.leakage) > _ROWS:
            note = f"and {len(report.leakage) - _ROWS} more (--json shows all)\n{note}"
        _print(console, "Texts that recur in a later split, case folded", _leakage_table(report), note)
    _print_summary(report, console)


def _print(console: Console, title: str, table: Table, note: str = "") -> None:
    console.print(title, style="bold", markup=False)
    console.print(table)
    if note:
        console.print(note, style="dim", markup=False)
    console.print()


def _table(*columns: str) -> Table:
    """A table of numbers, which stand right; `<name` is a column of words, and `<name>` one that may wrap."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        justify: Literal["left", "right"] = "left" if column.startswith("<") else "right"
        table.add_column(column.strip("<>"), justify=justify, overflow="fold", no_wrap=not column.endswith(">"))
    return table


def _add(table: Table, *cells: object) -> None:
    """A row of plain text: a label may hold what rich would read as markup."""
    table.add_row(*(Markup(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in cells))


def _by_split(counts: Mapping[Split, int]) -> list[int | str]:
    return [counts.get(split, 0) or _NOTHING for split in SPLITS]


def _sources_table(report: Report) -> Table:
    table = _table("<source", "<format", *SPLITS, "<language", "<licence>", "<labels>")
    for name, source in report.sources.items():
        licence = source.licence or UNSTATED
        _add(
            table,
            name,
            source.format,
            *_by_split(source.records),
            source.language,
            licence,
            ", ".join(source.tasks),
        )
    return table


def _tasks_table(report: Report) -> Table:
    table = _table("<task", "<kind", *SPLITS, "draws each", "share")
    for name, task in report.tasks.items():
        _add(table, name, task.kind, *_by_split(task.examples), f"{task.draws:.2f}", f"{task.share:.1%}")
    return table


def _labels_table(report: Report) -> Table:
    table = _table("<task", "number", "largest", "evenness", "<most frequent>")
    for name, task in report.tasks.items():
        if task.balance is None:
            _add(table, name, _NOTHING, _NOTHING, _NOTHING, _describe_values(task))
            continue
        number = sum(counts["train"] > 0 for counts in task.labels.values())
        shown = _describe_labels(task)
        _add(table, name, number, f"{task.balance.share:.1%}", f"{task.balance.entropy:.2f}", shown)
    return table


def _describe_labels(task: TaskReport) -> str:
    seen = [(name, counts["train"]) for name, counts in task.labels.items() if counts["train"]]
    seen.sort(key=lambda item: (-item[1], item[0]))
    parts = [f"{_shorten(name, 40)} {count:,}" for name, count in seen[:_TOP]]
    parts += [f"and {len(seen) - _TOP:,} more"] if len(seen) > _TOP else []
    blank = task.blank.get("train", 0)
    parts += [f"none in {blank:,} examples"] if blank else []
    unseen = task.only_held_out
    parts += [f"{_shorten(name, 40)}* {sum(task.labels[name].values()):,}" for name in unseen[:_TOP]]
    parts += [f"and {len(unseen) - _TOP:,} more*"] if len(unseen) > _TOP else []
    return " · ".join(parts)


def _describe_values(task: TaskReport) -> str:
    parts = [f"{share:.1%} unanswerable in {split}" for split, share in task.unanswerable.items() if share]
    if task.unanswerable and not parts:
        parts.append("every question has an answer")
    if "train" in task.values:
        values = task.values["train"]
        parts.append(
            f"{values.minimum:g} to {values.maximum:g}, mean {values.mean:.3g}, "
            f"standard deviation {values.deviation:.3g}"
        )
    return " · ".join(parts)


def _lengths_table(report: Report) -> Table:
    more = () if report.limit is None else ("subwords", "95 %", "max", "windowed", "truncated")
    table = _table("<task", "words", "95 %", "max", *more)
    for name, task in report.tasks.items():
        cells: list[object] = []
        for lengths in (task.words, task.subwords):
            if lengths is not None:
                cells += [f"{lengths.median:,.0f}", f"{lengths.p95:,.0f}", lengths.maximum]
        if task.fit is not None:
            cells += [sum(counts.values()) or _NOTHING for counts in (task.fit.windowed, task.fit.truncated)]
        _add(table, name, *cells)
    return table


def _repetitions_table(report: Report) -> Table:
    table = _table(
        "<task",
        *(f"duplicates {split}" if split == "train" else split for split in SPLITS),
        *(f"contradictory {split}" if split == "train" else split for split in SPLITS),
    )
    for name, task in report.tasks.items():
        if any((*task.duplicates.values(), *task.contradictory.values())):
            _add(table, name, *_by_split(task.duplicates), *_by_split(task.contradictory))
    return table


def _print_conflicts(report: Report, console: Console) -> None:
    """One contradiction of each task: enough to know where to look."""
    shown = [(name, task.conflicts[0]) for name, task in report.tasks.items() if task.conflicts]
    for name, conflict in shown[:_TOP]:
        line = f"{name}, {conflict.split}: {conflict.text}"
        console.print(line, markup=False, no_wrap=True, overflow="ellipsis")
        for reading in conflict.readings[:2]:
            console.print(f"  {reading.label}  {reading.origin}", markup=False, style="dim", soft_wrap=True)
    if len(shown) > _TOP:
        console.print(f"and contradictions of {len(shown) - _TOP} more tasks (--json shows some of each)", style="dim")
    if shown:
        console.print()


def _leakage_table(report: Report) -> Table:
    table = _table("<from", "<in", "texts", "examples", "recurring", "verbatim", "<done")
    # Foreign overlaps first: they are what a user may not know of.
    ranked = sorted(report.leakage, key=lambda o: (o.source == o.held_out, not o.withheld, -o.examples))
    for overlap in ranked[:_ROWS]:
        own = overlap.source == overlap.held_out
        place = f"{'its own' if own else overlap.held_out} {overlap.held_out_split}"
        counts = (overlap.texts, overlap.examples, overlap.recurring, overlap.verbatim)
        _add(table, f"{overlap.source} {overlap.split}", place, *counts, fate(overlap))
    return table


def _print_summary(report: Report, console: Console) -> None:
    def by_split(counts: Mapping[Split, int]) -> str:
        return ", ".join(f"{split} {count:,}" for split, count in counts.items() if count) or "none"

    lines = [
        f"Examples: {by_split(report.examples)}; fused of several sources: {by_split(report.fused)}",
        f"Withheld from training: {sum(report.withheld.values()):,} examples that are in another source's test",
        f"Strictest licence: {report.licence}",
    ]
    if any(report.contradictory.values()):
        lines.insert(1, f"Labelled differently by two sources: {by_split(report.contradictory)}")
    for line in lines:
        console.print(line, markup=False)
    if report.warnings:
        console.print(f"\nWarnings ({len(report.warnings)})", style="bold yellow")
    for warning in report.warnings[:_ROWS]:
        console.print(Padding(Markup(warning), (0, 0, 0, 2)))
    if len(report.warnings) > _ROWS:
        console.print(f"  and {len(report.warnings) - _ROWS} more (--json shows all)", markup=False)
