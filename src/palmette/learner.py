"""What families of models differ in while they are trained. The loop (trainer.py) is one and the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from palmette import balancing
from palmette.batching import Batch, Dataset, collate
from palmette.checkpoint import load_heads
from palmette.config import Config, TrainingConfig
from palmette.corpus import Corpus
from palmette.model import Model, autocast, pad_id, run, to_tensors, torch_engine
from palmette.predictor import AnyPredictor, Predictor
from palmette.probes import Probes
from palmette.text import Row
from palmette.trunk import load_pretrained, save_architecture
from palmette.words import find_words

R = TypeVar("R", bound=Sized)
B = TypeVar("B")
Groups = list[dict[str, Any]]


class Learner(ABC, Generic[R, B]):
    """A model in training: what it reads of the examples, its losses, and how it answers.

    Attributes:
        model: what is trained; its state is the run's weights.
        predictor: answers with the model as it is now.
        lengths: how many lengths of rows meet in an update (see `plan_updates`). Where tasks differ in length, updates
            of one length are updates of one task, and the next undoes what they did.
    """

    model: nn.Module
    predictor: AnyPredictor
    lengths: int = 1

    @abstractmethod
    def rows(self, numbers: Iterable[int]) -> list[R]:
        """What is trained on of some training examples, in order. A row's length is its tokens."""

    def sizes(self, row: R) -> tuple[int, ...]:
        """Tokens of each of a row's sequences, the one that batches are sorted by first; in all `len(row)`."""
        return (len(row),)

    @abstractmethod
    def collate(self, rows: Sequence[R]) -> B:
        """Rows as a batch, with what the losses compare with."""

    @abstractmethod
    def units(self, batch: B) -> Mapping[str, float]:
        """Labelled units of each task in a batch: what its loss is a mean over."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: B, units: Mapping[str, float]) -> dict[str, Tensor]:
        """Each task's part of the update's loss: its sum over this batch / its units in the whole update.

        Args:
            model: `self.model`, or what wraps it where several processes train.
            batch: a part of the update.
            units: of each task in the whole update, all parts and processes together.
        """

    @abstractmethod
    def groups(self) -> Groups:
        """Parameters by what the optimizer does with them: `params`, `peak` rate, `weight_decay`."""

    @abstractmethod
    def counts(self, task: str, numbers: Sequence[int]) -> dict[str, int]:
        """What did not fit of a task's training examples, by what became of it."""

    @abstractmethod
    def save_architecture(self, folder: Path) -> None:
        """Write what a run folder needs besides weights to load the model."""

    def probes(self, tokens: int) -> Probes:
        """What measures the tasks' gradients.

        Args:
            tokens: subwords that the run trains on.
        """
        raise NotImplementedError(f"{type(self).__name__} has no probes")


def group(model: nn.Module, config: TrainingConfig, *, new: Iterable[str], decays: Iterable[str]) -> Groups:
    """The trained parameters of a model: what is new has its own rate, and only some decay.

    Args:
        model: it.
        config: the rates.
        new: names of the parameters that begin at random.
        decays: names of those that decay: matrices, not biases and norms.
    """
    fresh, shrinking = frozenset(new), frozenset(decays)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in fresh, name in shrinking), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak": config.head_learning_rate if is_new else config.learning_rate,
            "weight_decay": config.weight_decay if shrinks else 0.0,
        }
        for (is_new, shrinks), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


class HeadsLearner(Learner[Row, Batch]):
    """Heads on a shared trunk."""

    model: Model
    predictor: Predictor

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        self.training = config.training
        self.device = device
        self.kinds = corpus.kinds
        trunk, self.encoder = load_pretrained(config.trunk, device=device.type)
        self.model = Model(trunk, corpus.kinds, dropout=config.training.dropout)
        if config.trunk.heads == "kept":
            load_heads(self.model, corpus.kinds, config.trunk.name)
        self.pad = pad_id(self.model)
        train = corpus.splits["train"]
        self.dataset = Dataset(train, self.encoder.encode(train))
        self.predictor = Predictor(
            corpus.kinds,
            self.encoder,
            torch_engine(self.model, device, config.training.precision),
            pad=self.pad,
            find_words=partial(find_words, language=config.language),
        )

    def rows(self, numbers: Iterable[int]) -> list[Row]:
        """All windows of each example."""
        return self.dataset.rows(numbers)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Padded rows, and what each task's head and loss need of them."""
        return collate(rows, self.dataset, self.kinds, pad=self.pad, labelled=True)

    def units(self, batch: Batch) -> Mapping[str, float]:
        """Words, texts, questions; windows of one text share one unit."""
        return {task: part.units for task, part in batch.tasks.items()}

    def losses(self, model: nn.Module, batch: Batch, units: Mapping[str, float]) -> dict[str, Tensor]:
        """One pass of the trunk; each task's loss as its kind has it."""
        with autocast(self.device, self.training.precision):
            outputs = run(model, batch, self.device)
        targets = {task: to_tensors(part.targets, self.device) for task, part in batch.tasks.items()}
        return balancing.losses(outputs, batch, self.kinds, units, targets)

    def groups(self) -> Groups:
        """Trunk (unless frozen) and heads with their own rates; biases, norms and the casing embedding do not decay."""
        names = {name: parameter.ndim for name, parameter in self.model.named_parameters()}
        return group(
            self.model,
            self.training,
            new=[name for name in names if name.startswith(("heads.", "trunk.casing."))],
            decays=[name for name, dimensions in names.items() if dimensions > 1 and "casing" not in name],
        )

    def counts(self, task: str, numbers: Sequence[int]) -> dict[str, int]:
        """Examples in several windows, cut although windowed, and whose label no window shows."""
        encoded = [self.dataset.encoded[number] for number in numbers]
        labels = [self.dataset.examples[number].labels[task] for number in numbers]
        return {
            "windowed": sum(len(example.rows) > 1 for example in encoded),
            "truncated": sum(any(row.truncated for row in example.rows) for example in encoded),
            "out_of_reach": sum(map(self.kinds[task].out_of_reach, labels, encoded)),
        }

    def save_architecture(self, folder: Path) -> None:
        """The trunk and its tokenizer."""
        save_architecture(self.model.trunk, self.encoder, folder)

    def probes(self, tokens: int) -> Probes:
        """Of the tasks' gradients on the trunk."""
        return Probes(self.model, self.kinds, self.dataset, training=self.training, tokens=tokens, device=self.device)
