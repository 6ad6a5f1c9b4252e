"""Everything that the detectors look at: one case a task, read once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from palmette import evaluation
from palmette.batching import Dataset, by_length, collate
from palmette.config import Config
from palmette.corpus import Corpus
from palmette.errors import PalmetteError
from palmette.heads import pool
from palmette.kinds import AnyKind
from palmette.model import Model, pad_id, parts_of, to_tensors
from palmette.operate.diagnose import quick
from palmette.operate.diagnose.sheet import Floats, Sheet
from palmette.predictor import Predictor
from palmette.text import TextEncoder
from palmette.trunk import load_pretrained
from palmette.types import SPLITS, Example, Split

_BATCH_TOKENS = 2048
_FEWEST = 20  # texts that can be told from others
_ALIKE = 0.6  # AUC below which two sets of texts are of one kind


class NotLookedAtError(PalmetteError):
    """A detector lacks what it needs; the page says so."""


@dataclass(frozen=True)
class Subject:
    """What is diagnosed.

    Attributes:
        name: the folder as the user typed it.
        config: of the data.
        corpus: the data.
        kinds: the model's tasks.
        predictor: its answers.
        model: trunk and heads of a run; None for a bundle.
        history: lines of history.jsonl; empty for a bundle.
        parity: of a bundle's parity.json.
        study: study.json, where one was given.
        seed: of everything drawn.
        most: examples of a task and split that are read; more are sampled evenly.
        data: the option that repeats the data in a command.
    """

    name: str
    config: Config
    corpus: Corpus
    kinds: Mapping[str, AnyKind]
    predictor: Predictor
    model: Model | None
    history: Sequence[Mapping[str, Any]]
    parity: Mapping[str, Any]
    study: Mapping[str, Any] | None
    seed: int
    most: int
    data: str = "tasks.yaml"

    @cached_property
    def base(self) -> tuple[Model, TextEncoder] | None:
        """The trunk as it was before training, with untrained heads; None where it cannot be loaded."""
        try:
            trunk, encoder = load_pretrained(self.config.trunk)
        except PalmetteError:
            return None
        return Model(trunk, dict(self.kinds), dropout=0.0).eval(), encoder


@dataclass(frozen=True)
class Case:
    """One task of the subject.

    Attributes:
        subject: what is diagnosed.
        kind: the task.
        sheets: by split; a split without a label of the task is missing.
    """

    subject: Subject
    kind: AnyKind
    sheets: Mapping[Split, Sheet]

    @classmethod
    def open(cls, subject: Subject, task: str) -> Case:
        """Read what the model and a trunk say of the task's examples."""
        kind = subject.kinds[task]
        sheets = {}
        for split in SPLITS:
            labelled = [e for e in subject.corpus.splits[split] if task in e.labels]
            chosen = evaluation.spread(labelled, [task], subject.most)
            if chosen:
                sheets[split] = read(subject, kind, chosen, split)
        return cls(subject, kind, sheets)

    @property
    def task(self) -> str:
        """Its name."""
        return self.kind.task

    @property
    def seed(self) -> int:
        """Of everything drawn."""
        return self.subject.seed

    @property
    def main(self) -> Sheet:
        """What the question is about: test, or dev where test has no label of the task."""
        found = self.sheets.get("test", self.sheets.get("dev"))
        if found is None:
            raise NotLookedAtError(f"{self.task}: neither test nor dev has a label of it")
        return found

    @property
    def train(self) -> Sheet:
        """The training examples."""
        if "train" not in self.sheets:
            raise NotLookedAtError("needs the training data: name them by --data")
        return self.sheets["train"]

    @property
    def beside(self) -> Sheet | None:
        """The dev examples, where the question is about others."""
        return self.sheets.get("dev") if self.main.split != "dev" else None

    @property
    def dev(self) -> Sheet:
        """The same where there must be some."""
        if self.beside is None:
            raise NotLookedAtError("needs both dev and test: one to compare the other with")
        return self.beside

    @cached_property
    def dev_is_like_train(self) -> bool:
        """Whether a classifier cannot tell the texts of dev from those of train; few are taken for alike."""
        if len(self.dev) < _FEWEST:
            return True
        area, p, _ = quick.two_sample(self.train.texts, self.dev.texts, seed=self.seed)
        return area < _ALIKE or p > 0.001

    @property
    def like_train(self) -> Sheet:
        """Held-out examples to judge training by: dev, which a shift of test does not blur; else the main ones."""
        return self.sheets.get("dev", self.main)

    @cached_property
    def quick_train(self) -> Floats:
        """Probabilities of the training units by quick heads that were fitted on other examples."""
        self.need_units(self.train)
        return quick.out_of_fold(self.train, seed=self.seed)

    @cached_property
    def quick_head(self) -> quick.QuickHead:
        """Fitted on all training units."""
        self.need_units(self.train)
        return quick.fit(self.train.vectors, self.train.gold, len(self.kind.labels))

    @staticmethod
    def need_units(sheet: Sheet) -> None:
        """Refuse a task that quick heads cannot be put on.

        Raises:
            NotLookedAtError: its kind has no units, or there is no trunk.
        """
        if not len(sheet.gold):
            raise NotLookedAtError(f"{sheet.kind.config.kind} does not decide among classes")
        if not sheet.vectors.shape[1]:
            raise NotLookedAtError("needs the trunk before training, which cannot be loaded")

    def answer(self, examples: Sequence[Example], predictor: Predictor | None = None) -> Floats:
        """The model's answers to examples that may differ from those of the data: [examples, parts]."""
        asked = predictor or self.subject.predictor
        found = [reading[self.task].label for reading in asked.answer(examples, [self.task])]
        return self.kind.parts([example.labels[self.task] for example in examples], found)

    def label_more(self, which: str) -> str:
        """The command that gets answers out to be corrected, and which to choose."""
        form = "jsonl" if len(self.main.gold) == len(self.main) else "label-studio"
        return (
            f"palmette review export STORE --task {self.task} --format {form} --which waiting --out TO_LABEL  # {which}"
        )

    @property
    def run(self) -> str:
        """The run in a command; a bundle does not know which it was made from."""
        return self.subject.name if self.subject.model is not None else "RUN"

    @property
    def unit(self) -> str:
        """What gains are measured in."""
        return self.kind.metric


def read(subject: Subject, kind: AnyKind, examples: Sequence[Example], split: Split) -> Sheet:
    """Answers, probabilities and vectors of some examples."""
    task = kind.task
    answers, probabilities = [], []
    for reading in subject.predictor.readings(examples, [task]):
        answers.append(subject.predictor.decode(reading)[task])
        found = kind.probabilities(reading.windows[task])
        probabilities.append(np.zeros((0, len(kind.labels))) if found is None else found)
    names = [kind.units(example.labels[task]) for example in examples]
    number = {label: n for n, label in enumerate(kind.labels)}
    gold = np.array([number.get(unit, -1) for units in names for unit in units], dtype=np.int64)
    owner = np.repeat(np.arange(len(examples)), [len(units) for units in names])
    vectors, texts = np.zeros((len(gold), 0)), np.zeros((len(examples), 0))
    trained = vectors
    if subject.base is not None:
        vectors, texts = represent(subject.base[0], kind, subject.base[1], examples)
    if subject.model is not None and len(gold):
        trained, _ = represent(subject.model, kind, subject.predictor.encoder, examples)
    return Sheet(
        kind,
        split,
        examples,
        answers,
        np.concatenate(probabilities),
        gold,
        owner.astype(np.int64),
        vectors,
        trained,
        texts,
    )


def represent(model: Model, kind: AnyKind, encoder: TextEncoder, examples: Sequence[Example]) -> tuple[Floats, Floats]:
    """What a task's head reads of each unit, and each text's mean hidden vector.

    Returns:
        [units, width] (no row for a kind without units) and [examples, width]; windows of a text are averaged, except
        where each answers for words of its own.
    """
    dataset = Dataset(examples, encoder.encode(examples))
    head = model.heads[f"task_{kind.task}"]
    layer = [found for found in head.modules() if isinstance(found, nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    units: dict[tuple[int, int], NDArray[Any]] = {}
    texts: dict[tuple[int, int], NDArray[Any]] = {}
    wanted = [[kind.task]] * len(examples)
    device = next(model.parameters()).device
    try:
        for rows in by_length(dataset.rows(range(len(examples))), batch_tokens=_BATCH_TOKENS):
            batch = collate(rows, dataset, {kind.task: kind}, pad=pad_id(model), labelled=False, wanted=wanted)
            with torch.inference_mode():
                inputs = to_tensors(batch.inputs, device)
                hidden = model.trunk(inputs)
                pooled = pool(hidden, inputs["attention_mask"]).cpu().numpy()
                part = batch.tasks[kind.task]
                head(hidden, parts_of(inputs), torch.as_tensor(part.index, device=device))
            read_by_head = seen.pop().float().cpu().numpy()
            start = 0
            for number, size in zip(part.rows, part.sizes, strict=True):
                row = rows[number]
                units[row.example, row.window] = read_by_head[start : start + size]
                texts[row.example, row.window] = pooled[number]
                start += size
    finally:
        hook.remove()
    counts = [len(kind.units(example.labels[kind.task])) for example in examples]
    found_units, found_texts = [], []
    for number, encoded in enumerate(dataset.encoded):
        keys = [(number, row.window) for row in encoded.rows]
        found_texts.append(np.mean([texts[key] for key in keys], axis=0))
        if counts[number]:
            windows = [units[key] for key in keys]
            whole = np.concatenate(windows) if sum(map(len, windows)) == counts[number] else np.mean(windows, axis=0)
            found_units.append(whole)
    width = model.trunk.width
    together = np.concatenate(found_units) if found_units else np.zeros((0, width))
    return together.astype(np.float64), np.array(found_texts, dtype=np.float64).reshape(-1, width)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Lines of history.jsonl; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
