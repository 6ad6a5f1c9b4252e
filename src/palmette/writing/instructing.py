"""Instruction tuning: adapters of a language model learn the answers to the prompts that it is asked with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from palmette.config import Config
from palmette.corpus import Corpus
from palmette.errors import ConfigError
from palmette.kinds import AnyKind
from palmette.learner import Groups, Learner, group
from palmette.model import autocast
from palmette.types import Example, Prediction
from palmette.words import find_words
from palmette.writing import lora
from palmette.writing.lora import Adapted
from palmette.writing.losses import written_losses
from palmette.writing.padding import padded
from palmette.writing.predictor import WritingPredictor
from palmette.writing.prompts import Prompter, check_prompts, choose_shots
from palmette.writing.writer import Heard

if TYPE_CHECKING:
    from palmette.writing.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """A task of an example in tokens: the prompt, and the answer behind it.

    Attributes:
        example: its position.
        task: which.
        ids: both.
        prompt: how many of them are the prompt's.
        truncated: one of them did not fit and was cut.
    """

    example: int
    task: str
    ids: list[int]
    prompt: int
    truncated: bool

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class AnswerBatch:
    """Padded rows that one adapter reads.

    Attributes:
        ids: [rows, tokens], padded on the right.
        target: [rows, places] the tokens at the end of `ids` that some row's answer reaches.
        target_mask: [rows, places] which of them are answers, and so counted by the loss.
        tasks: the rows of each task.
    """

    ids: Tensor
    target: Tensor
    target_mask: Tensor
    tasks: Mapping[str, Tensor]


class LoraLearner(Learner[AnswerRow, Mapping[str, AnswerBatch]]):
    """A language model whose adapters are trained on the prompts that it answers; batches are by adapter."""

    model: Adapted
    lengths = 4

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        if config.prompting.shots:
            where = config.where("prompting", "shots")
            raise ConfigError(f"{where}: adapters learn from all training examples, and are asked without shots: 0")
        check_prompts(config)
        self.training = config.training
        self.device = device
        self.writer, self.model, self.base = lora.load_pretrained(config, corpus.kinds, device=device.type)
        self.predictor = AdaptedPredictor(config, corpus.kinds, self.writer, self.model)
        self.encoded = encode(self.writer, self.predictor.prompter, corpus.splits["train"])

    def rows(self, numbers: Iterable[int]) -> list[AnswerRow]:
        """One for each task of each example."""
        return [row for number in numbers for row in self.encoded[number]]

    def collate(self, rows: Sequence[AnswerRow]) -> Mapping[str, AnswerBatch]:
        """Padded on the right, the rows of each adapter apart."""
        parts: dict[str, list[AnswerRow]] = {}
        for row in rows:
            parts.setdefault(self.model.adapter_of(row.task), []).append(row)
        return {adapter: _batch(parts[adapter]) for adapter in sorted(parts)}

    def units(self, batch: Mapping[str, AnswerBatch]) -> Mapping[str, float]:
        """Tokens to be written."""
        return {
            task: float(part.target_mask[rows].sum()) for part in batch.values() for task, rows in part.tasks.items()
        }

    def losses(
        self, model: nn.Module, batch: Mapping[str, AnswerBatch], units: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Cross-entropy of each token to be written, summed over a task's rows / its tokens in the update."""
        inputs = {adapter: (part.ids.to(self.device), part.target.shape[1] + 1) for adapter, part in batch.items()}
        with autocast(self.device, self.training.precision):
            logits = model(inputs)  # {adapter: [rows, places + 1, vocabulary]}: each place is scored by the one before
        found: dict[str, Tensor] = {}
        for adapter, part in batch.items():
            found |= written_losses(logits[adapter][:, :-1], part.target, part.target_mask, part.tasks, units)
        return found

    def groups(self) -> Groups:
        """All that is trained is new, and all of it matrices."""
        return group(self.model, self.training, new=self.model.trained, decays=self.model.trained)

    def counts(self, task: str, numbers: Sequence[int]) -> dict[str, int]:
        """Examples of which the prompt or the answer was cut."""
        rows = [row for number in numbers for row in self.encoded[number] if row.task == task]
        return {"truncated": sum(row.truncated for row in rows)}

    def save_architecture(self, folder: Path) -> None:
        """Which model the adapters belong to."""
        lora.save_architecture(folder, self.base)


def _batch(rows: Sequence[AnswerRow]) -> AnswerBatch:
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        numbers.setdefault(row.task, []).append(number)
    ids = padded([row.ids for row in rows], 0)
    begins = torch.tensor([row.prompt for row in rows])[:, None]  # [rows, 1]
    ends = torch.tensor([len(row) for row in rows])[:, None]
    places = torch.arange(int(begins.min()), ids.shape[1])
    mask = ((places >= begins) & (places < ends)).long()  # [rows, places]
    return AnswerBatch(ids, ids[:, places], mask, {task: torch.tensor(numbers[task]) for task in sorted(numbers)})


def encode(model: LanguageModel, prompter: Prompter, examples: Sequence[Example]) -> list[list[AnswerRow]]:
    """The rows of each example: one for each of its tasks, in the order of the prompter's kinds."""
    rows: list[list[AnswerRow]] = [[] for _ in examples]
    for number, example in enumerate(examples):
        for task, kind in prompter.kinds.items():
            if task not in example.labels:
                continue
            answer = model.answer_ids(kind.target_text(example.labels[task], example))
            kept = answer[: model.limit // 2]  # without its end, where it is cut
            prompt = model.encode(prompter.prompt(task, example), room=len(kept))
            truncated = prompt.truncated or len(kept) < len(answer)
            rows[number].append(AnswerRow(number, task, prompt.ids + kept, len(prompt.ids), truncated))
    return rows


class AdaptedPredictor(WritingPredictor):
    """Answers each task with its adapter.

    Args:
        config: of the run.
        kinds: its tasks.
        model: what writes, and says how probable answers are.
        adapted: its adapters.
    """

    def __init__(self, config: Config, kinds: Mapping[str, AnyKind], model: LanguageModel, adapted: Adapted) -> None:
        self.prompter = Prompter(kinds, config.prompting.prompts, choose_shots(config, kinds, (), None))
        self.adapted = adapted
        super().__init__(
            kinds,
            partial(find_words, language=config.language),
            model,
            self.prompter.prompt,
            constrained=config.writing.constrained,
            longest=config.writing.longest,
            scorer=model if config.prompting.scoring == "likelihood" else None,
            neutral=self.prompter.neutral if config.prompting.calibrated else None,
        )

    def _answer(self, task: str, examples: Sequence[Example], heard: Heard | None) -> list[Prediction]:
        self.adapted.use(task)
        self._biases.pop(task, None)  # the adapter may have learnt since
        return super()._answer(task, examples, heard)
