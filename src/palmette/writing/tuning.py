"""Training of models that write: every task of an example is a pair of texts, and the loss is of the tokens written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from palmette.config import Config
from palmette.corpus import Corpus
from palmette.kinds import AnyKind
from palmette.learner import Groups, Learner, group
from palmette.model import autocast
from palmette.types import Example
from palmette.words import find_words
from palmette.writing import seq2seq
from palmette.writing.losses import written_losses
from palmette.writing.padding import mask_of, padded
from palmette.writing.predictor import WritingPredictor
from palmette.writing.prompts import Prompt, source_text
from palmette.writing.seq2seq import Seq2Seq, Seq2SeqWriter, Tokens


@dataclass(frozen=True, slots=True)
class TextRow:
    """A task of an example in tokens.

    Attributes:
        example: its position.
        task: which.
        source: what the model reads.
        target: what it is to write, the end included.
        truncated: one of them did not fit and was cut.
    """

    example: int
    task: str
    source: list[int]
    target: list[int]
    truncated: bool

    def __len__(self) -> int:
        return len(self.source) + len(self.target)


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Padded rows.

    Attributes:
        source, source_mask: [rows, source tokens].
        given: [rows, target tokens] what stands in front of each token to be written.
        target, target_mask: [rows, target tokens]; the mask says which tokens the loss counts.
        tasks: the rows of each task.
    """

    source: Tensor
    source_mask: Tensor
    given: Tensor
    target: Tensor
    target_mask: Tensor
    tasks: Mapping[str, Tensor]


class Seq2SeqLearner(Learner[TextRow, TextBatch]):
    """An encoder-decoder that reads a task's name and input, and writes the label."""

    model: Seq2Seq
    lengths = 4

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        self.training = config.training
        self.device = device
        self.model, self.tokens = seq2seq.load_pretrained(config.trunk, device=device.type)
        self.examples = corpus.splits["train"]
        self.encoded = encode(self.tokens, self.examples, corpus.kinds)
        self.predictor = seq2seq_predictor(config, corpus.kinds, self.model, self.tokens, device)

    def rows(self, numbers: Iterable[int]) -> list[TextRow]:
        """One for each task of each example."""
        return [row for number in numbers for row in self.encoded[number]]

    def sizes(self, row: TextRow) -> tuple[int, ...]:
        """Sorted by the input, so that an update holds several tasks: their answers differ most in length."""
        return len(row.source), len(row.target)

    def collate(self, rows: Sequence[TextRow]) -> TextBatch:
        """Padded on the right; the decoder is given what it is to write, one place later."""
        numbers: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            numbers.setdefault(row.task, []).append(number)
        sources, targets = [row.source for row in rows], [row.target for row in rows]
        pad = self.tokens.pad
        return TextBatch(
            padded(sources, pad),
            mask_of(sources),
            padded([[self.tokens.start, *target[:-1]] for target in targets], pad),
            padded(targets, pad),
            mask_of(targets),
            {task: torch.tensor(numbers[task]) for task in sorted(numbers)},
        )

    def units(self, batch: TextBatch) -> Mapping[str, float]:
        """Tokens to be written."""
        lengths = batch.target_mask.sum(dim=1)
        return {task: float(lengths[rows].sum()) for task, rows in batch.tasks.items()}

    def losses(self, model: nn.Module, batch: TextBatch, units: Mapping[str, float]) -> dict[str, Tensor]:
        """Cross-entropy of each token to be written, summed over a task's rows / its tokens in the update."""
        with autocast(self.device, self.training.precision):
            logits = model(*(part.to(self.device) for part in (batch.source, batch.source_mask, batch.given)))
        return written_losses(logits, batch.target, batch.target_mask, batch.tasks, units)

    def groups(self) -> Groups:
        """What pretraining has seen and what is new have their own rates; only matrices decay."""
        decays = [name for name, parameter in self.model.named_parameters() if parameter.ndim > 1]
        return group(self.model, self.training, new=self.model.new, decays=decays)

    def counts(self, task: str, numbers: Sequence[int]) -> dict[str, int]:
        """Examples of which the input or the label was cut."""
        rows = [row for number in numbers for row in self.encoded[number] if row.task == task]
        return {"truncated": sum(row.truncated for row in rows)}

    def save_architecture(self, folder: Path) -> None:
        """The model's description and its tokenizer."""
        seq2seq.save_architecture(self.model, self.tokens, folder)


def encode(tokens: Tokens, examples: Sequence[Example], kinds: Mapping[str, AnyKind]) -> list[list[TextRow]]:
    """The rows of each example: one for each of its tasks, in the order of `kinds`."""
    asked = [(number, task) for number, example in enumerate(examples) for task in kinds if task in example.labels]
    texts = [(task, kinds[task], examples[number]) for number, task in asked]
    sources = tokens.sources([source_text(task, kind, example) for task, kind, example in texts])
    targets = tokens.targets([kind.target_text(example.labels[task], example) for task, kind, example in texts])
    rows: list[list[TextRow]] = [[] for _ in examples]
    for (number, task), (source, cut), (target, unfinished) in zip(asked, sources, targets, strict=True):
        rows[number].append(TextRow(number, task, source, target, cut or unfinished))
    return rows


def seq2seq_predictor(
    config: Config, kinds: Mapping[str, AnyKind], model: Seq2Seq, tokens: Tokens, device: torch.device
) -> WritingPredictor:
    """What answers with an encoder-decoder."""

    def prompt(task: str, example: Example) -> Prompt:
        return ({"role": "user", "content": source_text(task, kinds[task], example)},)

    writer = Seq2SeqWriter(model, tokens, device, precision=config.training.precision, beams=config.writing.beams)
    return WritingPredictor(
        kinds,
        partial(find_words, language=config.language),
        writer,
        prompt,
        constrained=config.writing.constrained,
        longest=config.writing.longest,
    )
