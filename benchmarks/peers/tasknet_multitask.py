"""tasknet's Model and Trainer on a job of training_speed.py. Run by the python of tasknet's own environment.

The protocol is that of flair_multitask.py. tasknet draws one task a batch, so that a sentence labelled for two tasks
is encoded twice.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import evaluate  # type: ignore[import-not-found]
import torch
import transformers

# tasknet asks the hub for seqeval and bleu while it is imported; neither is computed while training.
evaluate.load = lambda *_, **__: None

import tasknet  # type: ignore[import-not-found]  # noqa: E402

IGNORED = -100


class Stopped(Exception):  # noqa: N818 - not an error
    """The parent wants no more slices."""


class Gate(transformers.TrainerCallback):  # type: ignore[misc]
    """Lets training go on for as many batches as the parent asks for, and times them."""

    def __init__(self, answers: Any, description: dict[str, Any]) -> None:
        self.answers = answers
        self.description = description
        self.left = 0
        self.started = 0.0
        self.seen: list[Any] = []  # the slice's inputs, counted after the clock has stopped
        self.words: dict[tuple[int, tuple[int, ...]], int] = {}

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait for a request where the last slice has ended."""
        if self.left == 0:
            if self.description:
                self.answer(self.description)
                self.description = {}
            request = sys.stdin.readline()
            if not request:
                raise Stopped
            self.left = json.loads(request)["batches"]
            self.seen, self.started = [], time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Answer where the slice ends."""
        self.left -= 1
        if self.left == 0:
            seconds = time.perf_counter() - self.started
            self.answer({"seconds": seconds, "units": sum(map(self.units, self.seen))})

    def units(self, batch: tuple[int, Any, Any]) -> int:
        """Labelled words or texts of a batch: tasknet repeats a word's label at each of its subwords."""
        task, ids, mask = batch
        return sum(
            self.words[task, tuple(row[:length])]
            for row, length in zip(ids.tolist(), mask.sum(-1).tolist(), strict=True)
        )

    def answer(self, found: dict[str, Any]) -> None:
        """Write one line."""
        self.answers.write(json.dumps(found) + "\n")
        self.answers.flush()


class GatedTrainer(tasknet.Trainer):  # type: ignore[misc]
    """tasknet's trainer, which keeps what it trained on for the gate to count."""

    gate: Gate

    def training_step(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """One batch."""
        self.gate.seen.append((int(inputs["task"][0]), inputs["input_ids"], inputs["attention_mask"]))
        return super().training_step(model, inputs, *arguments, **options)


def dataset_of(examples: list[dict[str, Any]], task: str, kind: str) -> datasets.DatasetDict:
    """A task's examples as tasknet takes them; it never evaluates here, but wants every split."""
    chosen = [example for example in examples if task in example["labels"]]
    if kind == "text":
        names = sorted({example["labels"][task] for example in chosen})
        features = {"sentence1": datasets.Value("string"), "labels": datasets.ClassLabel(names=names)}
        rows = {
            "sentence1": [" ".join(example["words"]) for example in chosen],
            "labels": [example["labels"][task] for example in chosen],
        }
    else:
        names = sorted({tag for example in chosen for tag in example["labels"][task]})
        features = {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "labels": datasets.Sequence(datasets.ClassLabel(names=names)),
        }
        rows = {
            "tokens": [example["words"] for example in chosen],
            "labels": [example["labels"][task] for example in chosen],
        }
    whole = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    few = whole.select(range(1))
    return datasets.DatasetDict({"train": whole, "validation": few, "test": few})


def words_in(trainer: Any, tasks: list[Any], kinds: list[str]) -> dict[tuple[int, tuple[int, ...]], int]:
    """{(task, subwords): labelled words (of a text: 1)} of all training examples, as truncated."""
    counts: dict[tuple[int, tuple[int, ...]], int] = {}
    for number, (task, kind) in enumerate(zip(tasks, kinds, strict=True)):
        raw = task.dataset["train"]
        for position, row in enumerate(trainer.processed_tasks[task]["train"]):
            length = int(row["attention_mask"].sum())
            key = (number, tuple(row["input_ids"][:length].tolist()))
            if kind == "text":
                counts[key] = 1
                continue
            encoded = trainer.tokenizer(raw[position]["tokens"], is_split_into_words=True, **task.tokenizer_kwargs)
            counts[key] = len({word for word in encoded.word_ids() if word is not None})
    return counts


def main() -> None:
    """Serve one parent."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the library prints goes to standard error
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    transformers.set_seed(job["seed"])
    data = json.loads(Path(job["data"]).read_text(encoding="utf-8"))
    kinds: dict[str, str] = data["tasks"]
    tasks = []
    for name, kind in kinds.items():
        cls = tasknet.Classification if kind == "text" else tasknet.TokenClassification
        tasks.append(cls(dataset_of(data["examples"], name, kind), name=name))
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "model_name": job["trunk"],
            "max_length": job["max_length"],
            "learning_rate": job["learning_rate"],
            "per_device_train_batch_size": job["batch_size"],
            "num_train_epochs": 1000,  # the parent decides when it ends
            "optim": "adamw_torch_fused",
            "eval_strategy": "no",
            "save_strategy": "no",
            "logging_strategy": "no",
            "output_dir": folder,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "seed": job["seed"],
        }
        model = tasknet.Model(tasks, arguments)
        trainer = GatedTrainer(model, tasks, arguments)
        batches = len(trainer.get_train_dataloader())
        passes = sum(len(task.dataset["train"]) for task in tasks)
        versions = {name: version(name) for name in ("tasknet", "torch", "transformers")}
        trainer.gate = Gate(answers, {"batches": batches, "versions": versions, "passes": passes})
        trainer.gate.words = words_in(trainer, tasks, list(kinds.values()))
        trainer.add_callback(trainer.gate)
        try:
            trainer.train()
        except Stopped:
            return


if __name__ == "__main__":
    main()
