"""A trained model: load it, predict, evaluate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from palmette import evaluation
from palmette.answering import Answerer
from palmette.checkpoint import RunFolder, load_weights, read_labels
from palmette.config import Config
from palmette.corpus import load_corpus
from palmette.errors import RunError
from palmette.kinds import AnyKind
from palmette.model import Model, pad_id, torch_engine
from palmette.predictor import AnyPredictor, Predictor, with_heads
from palmette.trunk import load_architecture
from palmette.types import Example
from palmette.words import find_words
from palmette.writing import lora, prompted, seq2seq
from palmette.writing.instructing import AdaptedPredictor
from palmette.writing.predictor import WritingPredictor
from palmette.writing.tuning import seq2seq_predictor

_Loaded = tuple[nn.Module, AnyPredictor]


def _heads(config: Config, kinds: Mapping[str, AnyKind], folder: RunFolder, device: torch.device) -> _Loaded:
    trunk, encoder = load_architecture(folder.path, device=device.type)
    model = Model(trunk, kinds, dropout=0.0)
    engine = torch_engine(model, device, config.training.precision)
    words = partial(find_words, language=config.language)
    return model, Predictor(kinds, encoder, engine, pad=pad_id(model), find_words=words)


def _text2text(config: Config, kinds: Mapping[str, AnyKind], folder: RunFolder, device: torch.device) -> _Loaded:
    model, tokens = seq2seq.load_architecture(folder.path, device=device.type)
    return model, seq2seq_predictor(config, kinds, model, tokens, device)


def _adapted(config: Config, kinds: Mapping[str, AnyKind], folder: RunFolder, device: torch.device) -> _Loaded:
    writer, model = lora.load_architecture(folder.path, config, kinds, device=device.type)
    return model, AdaptedPredictor(config, kinds, writer, model)


# The model of a run, its weights still to be loaded, and what answers with it.
_LOADERS: dict[str, Callable[[Config, Mapping[str, AnyKind], RunFolder, torch.device], _Loaded]] = {
    "heads": _heads,
    "text2text": _text2text,
    "causal_lm": _adapted,
}


@dataclass(frozen=True)
class Run(Answerer):
    """A finished run, ready to answer."""

    folder: RunFolder
    config: Config
    model: Any  # what computes: a `palmette.model.Model`, or a language model

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Load a run folder.

        Raises:
            RunError: it is not a finished run, or a file of it is missing or damaged.
        """
        folder = RunFolder(Path(path))
        if not folder.config.exists():
            raise RunError(f"{path}: is not a run folder (no config.yaml)")
        if not folder.complete:
            raise RunError(f"{path}: training has not finished: palmette train … --out {path} --resume")
        config = Config.load(folder.config)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            kinds = read_labels(config, folder)
        except (OSError, KeyError, ValueError) as error:
            raise RunError(f"{path}: the run folder is damaged: {error}") from error
        if not config.is_trained:
            asking = prompted.reopen(config, kinds, folder)
            return cls(kinds, asking, folder, config, asking.writer)
        try:
            model, predictor = _LOADERS[config.family](config, kinds, folder, device)
        except (OSError, KeyError, ValueError) as error:
            raise RunError(f"{path}: the run folder is damaged: {error}") from error
        load_weights(model, folder.weights)
        model.to(device).eval()
        return cls(kinds, predictor, folder, config, model)

    def heads(self, what: str) -> tuple[Model, Predictor]:
        """Trunk and heads, and what answers with them, for what only they can do.

        Raises:
            RunError: the model writes its answers.
        """
        predictor = with_heads(self.predictor, what)
        if not isinstance(self.model, Model):
            raise TypeError(f"a predictor with heads over {type(self.model).__name__}")
        return self.model, predictor

    def evaluate(
        self,
        split: str = "test",
        *,
        slices: Sequence[str] = (),
        config: Config | None = None,
        strict: bool = False,
    ) -> dict[str, Any]:
        """Read the data again and score a split.

        Args:
            split: train, dev or test.
            slices: `length`, `unseen`, or columns or comments of the sources, to score apart.
            config: other sources to score on; each of its tasks must be one of the run's. Default: the run's own.
            strict: see `load_corpus`.

        Returns:
            {"split", "tasks": {task: {metric: value, "examples": n}}, "labels": …, "slices": {name: {place: tasks}},
            "truncated": {task: examples read in part}, "warnings": what was left out, repaired, read in part or is
            called otherwise than in training}; of a model that writes also "usage": {task: tokens read and written,
            what was cut or could not be read}

        Raises:
            RunError: no example of the split is labelled, or a slice's field is nowhere.
        """
        config = config or self.config
        unknown = config.tasks.keys() - self.kinds.keys()
        if unknown:
            raise RunError(f"no task {min(unknown)!r} in this model; it has {', '.join(self.kinds)}")
        self._refuse_other_forms(config)
        fields = frozenset(slices) - {"length", "unseen"}
        corpus = load_corpus(config, strict=strict, fields=fields, fitted={t: self.kinds[t] for t in config.tasks})
        # What the model has seen is in its own training data, whatever it is scored on.
        seen = corpus if config is self.config or "unseen" not in slices else load_corpus(self.config, strict=strict)
        found = self.evaluate_examples(corpus.splits[split], split, train=seen.splits["train"], slices=slices)
        cut = [
            f"{task}: {count} examples of {split} did not fit the trunk and were read in part"
            for task, count in found["truncated"].items()
        ]
        return found | {"warnings": corpus.reports[split].warnings(split) + cut}

    def _refuse_other_forms(self, config: Config) -> None:
        """A task of the same name that is declared otherwise cannot be scored as the run's."""
        for task, declared in config.tasks.items():
            own = self.config.tasks[task]
            for key in ("kind", "scheme"):
                wanted, found = getattr(own, key), getattr(declared, key)
                if wanted != found:
                    raise RunError(
                        f"{config.where('tasks', task, key)}: the run was trained with {wanted}, found {found}"
                    )

    def evaluate_examples(
        self, examples: Sequence[Example], split: str, *, train: Sequence[Example] = (), slices: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Score labelled examples; `train` tells which words were seen."""
        if not examples:
            raise RunError(f"{split}: the sources have no labelled example of this split")
        if isinstance(self.predictor, WritingPredictor):
            self.predictor.forget_usage()
        answers = self.predictor.answer_labelled(examples)
        usage = self.predictor.usage_json() if isinstance(self.predictor, WritingPredictor) else None
        by_slice = {}
        for name in slices:
            known = evaluation.vocabulary(train) if name == "unseen" else None
            key = evaluation.slice_by(name, known)
            by_slice[name] = evaluation.score_slices(examples, answers, self.kinds, key)
            if not by_slice[name]:
                raise RunError(f"--slices {name}: no example of {split} has such a column or comment")
        return {
            "split": split,
            "tasks": evaluation.score(examples, answers, self.kinds),
            "labels": evaluation.score_labels(examples, answers, self.kinds),
            "slices": by_slice,
            "truncated": dict(Counter(t for answer in answers for t, found in answer.items() if found.truncated)),
            **({"usage": usage} if usage is not None else {}),
        }
