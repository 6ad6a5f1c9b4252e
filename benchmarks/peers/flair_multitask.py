"""Flair's MultitaskModel and ModelTrainer on a job of training_speed.py. Run by the python of Flair's own environment.

Requests come as JSON lines on standard input: first the job, then `{"batches": n}` for each measured slice; each is
answered by a JSON line. Training stands still between slices, inside a trainer plugin.

Modes:
    separate: as Flair's tutorial does it, `make_multitask_model_and_corpus` over a corpus a task. A sentence that is
        labelled for two tasks is encoded once for each.
    all_tasks: `MultitaskModel(use_all_tasks=True)` over one corpus, each sentence marked with all of its tasks. Flair
        then reuses a sentence's embeddings within a batch.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flair  # type: ignore[import-not-found]
import torch
from flair.data import Corpus, Dictionary, Sentence  # type: ignore[import-not-found]
from flair.datasets import FlairDatapointDataset  # type: ignore[import-not-found]
from flair.embeddings import TransformerDocumentEmbeddings  # type: ignore[import-not-found]
from flair.models import MultitaskModel, TextClassifier, TokenClassifier  # type: ignore[import-not-found]
from flair.nn.multitask import make_multitask_model_and_corpus  # type: ignore[import-not-found]
from flair.trainers import ModelTrainer  # type: ignore[import-not-found]
from flair.trainers.plugins import TrainerPlugin  # type: ignore[import-not-found]


class Stopped(Exception):  # noqa: N818 - not an error
    """The parent wants no more slices."""


class Gate(TrainerPlugin):  # type: ignore[misc]
    """Lets training go on for as many batches as the parent asks for, and times them."""

    def __init__(self, answers: Any, description: dict[str, Any]) -> None:
        super().__init__()
        self.answers = answers
        self.description = description
        self.left = 0
        self.units = 0
        self.started = 0.0

    @TrainerPlugin.hook  # type: ignore[untyped-decorator]
    def before_training_batch(self, **_: Any) -> None:
        """Wait for a request where the last slice has ended."""
        if self.left == 0:
            if self.description:
                self.answer(self.description)
                self.description = {}
            request = sys.stdin.readline()
            if not request:
                raise Stopped
            self.left = json.loads(request)["batches"]
            self.units, self.started = 0, time.perf_counter()

    @TrainerPlugin.hook  # type: ignore[untyped-decorator]
    def after_training_batch(self, **_: Any) -> None:
        """Answer where the slice ends."""
        self.left -= 1
        if self.left == 0:
            self.answer({"seconds": time.perf_counter() - self.started, "units": self.units})

    def answer(self, found: dict[str, Any]) -> None:
        """Write one line."""
        self.answers.write(json.dumps(found) + "\n")
        self.answers.flush()


def sentence_of(example: dict[str, Any], tasks: list[str], kinds: dict[str, str]) -> Any:
    """A Flair sentence with the labels of some tasks. Spaces inside a word would make Flair split it."""
    sentence = Sentence([word.replace(" ", "_") or "_" for word in example["words"]])
    for task in tasks:
        label = example["labels"][task]
        if kinds[task] == "text":
            sentence.add_label(task, label)
        elif kinds[task] == "tags":
            for token, tag in zip(sentence, label, strict=True):
                token.add_label(task, tag)
        else:
            for start, stop, kind in spans_of(label):
                sentence[start:stop].add_label(task, kind)
    return sentence


def spans_of(tags: list[str]) -> list[tuple[int, int, str]]:
    """The spans that valid IOB2 tags write."""
    spans: list[tuple[int, int, str]] = []
    for position, tag in enumerate(tags):
        if tag.startswith("B-"):
            spans.append((position, position + 1, tag[2:]))
        elif tag.startswith("I-"):
            start, _, kind = spans.pop()
            spans.append((start, position + 1, kind))
    return spans


def dictionary_of(examples: list[dict[str, Any]], task: str, kind: str) -> Any:
    """Flair's label dictionary of a task."""
    labels: set[str] = set()
    for example in examples:
        found = example["labels"].get(task)
        if found is None:
            continue
        labels |= {found} if kind == "text" else set(found) if kind == "tags" else {s[2] for s in spans_of(found)}
    dictionary = Dictionary(add_unk=False)
    for label in sorted(labels):
        dictionary.add_item(label)
    dictionary.span_labels = kind == "spans"
    return dictionary


def build(job: dict[str, Any]) -> tuple[Any, Any]:
    """The multitask model and its corpus."""
    data = json.loads(Path(job["data"]).read_text(encoding="utf-8"))
    kinds: dict[str, str] = data["tasks"]
    # One embedding object, so that all tasks share one encoder; it gives words and texts.
    embeddings = TransformerDocumentEmbeddings(
        job["trunk"], fine_tune=True, is_token_embedding=True, subtoken_pooling="first", cls_pooling="mean"
    )
    models = {}
    for task, kind in kinds.items():
        cls = TextClassifier if kind == "text" else TokenClassifier
        models[task] = cls(embeddings, label_dictionary=dictionary_of(data["examples"], task, kind), label_type=task)
    if job["mode"] == "separate":
        pairs = []
        for task, model in models.items():
            sentences = [sentence_of(e, [task], kinds) for e in data["examples"] if task in e["labels"]]
            pairs.append((model, Corpus(train=FlairDatapointDataset(sentences), sample_missing_splits=False)))
        return make_multitask_model_and_corpus(pairs)  # type: ignore[no-any-return]
    sentences = [sentence_of(e, sorted(e["labels"]), kinds) for e in data["examples"]]
    for sentence, example in zip(sentences, data["examples"], strict=True):
        for task in sorted(example["labels"]):
            sentence.add_label("multitask_id", task)
    model = MultitaskModel(list(models.values()), task_ids=list(models), use_all_tasks=True)
    return model, Corpus(train=FlairDatapointDataset(sentences), sample_missing_splits=False)


def main() -> None:
    """Serve one parent."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the library prints goes to standard error
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    random.seed(job["seed"])
    flair.set_seed(job["seed"])
    flair.device = torch.device("cpu")
    model, corpus = build(job)
    # A multi-corpus cuts dev and test off train; given back below, so that every sentence is trained on.
    passes = sum(len(split) for split in (corpus.train, corpus.dev, corpus.test) if split)
    batches = -(-passes // job["batch_size"])
    versions = {name: version(name) for name in ("flair", "torch", "transformers")}
    gate = Gate(answers, {"batches": batches, "versions": versions, "passes": passes})
    forward_loss = model.forward_loss

    def counted(sentences: Any) -> Any:
        loss, labels = forward_loss(sentences)
        gate.units += labels
        return loss, labels

    model.forward_loss = counted
    with tempfile.TemporaryDirectory() as folder:
        try:
            ModelTrainer(model, corpus).fine_tune(
                folder,
                learning_rate=job["learning_rate"],
                mini_batch_size=job["batch_size"],
                max_epochs=1000,  # the parent decides when it ends
                train_with_dev=True,
                train_with_test=True,
                optimizer=torch.optim.AdamW,
                plugins=[gate],
                save_final_model=False,
                create_file_logs=False,
                create_loss_file=False,
                fused=True,
            )
        except Stopped:
            return


if __name__ == "__main__":
    main()
