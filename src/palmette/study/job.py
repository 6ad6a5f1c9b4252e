"""A study's run in a process of its own: train, measure, write `result.json`. Started by `palmette.study.execute`.

    python -m palmette.study.job FOLDER

FOLDER holds `job.json`; the process ends when its standard input does, so that a killed study leaves none behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palmette.errors import ConfigError, PalmetteError, RunError

if TYPE_CHECKING:
    from palmette.checkpoint import RunFolder
    from palmette.config import Config
    from palmette.corpus import Corpus
    from palmette.run import Run
    from palmette.types import Example

RUN, JOB, RESULT, ERROR, PARTS = "run", "job.json", "result.json", "error.txt", "parts.safetensors"
_TRAIN_SAMPLE = 1000  # training examples that the gap between train and dev is measured on
_TIMED = 200  # texts that the time of an answer is measured on
_TIMED_ROUNDS = 3


def main() -> None:
    """Run the job of a folder."""
    folder = Path(sys.argv[1])
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        run(folder)
    except PalmetteError as error:
        (folder / ERROR).write_text(f"{error}\n", encoding="utf-8")
        sys.exit(2)


def _leave_with_parent() -> None:
    # Not sys.stdin: a thread that holds its lock when the process ends makes the interpreter abort.
    while os.read(0, 1024):
        pass
    os._exit(3)


def run(folder: Path) -> None:
    """Train (or go on training), measure, write the result; weights that nobody asked to keep go."""
    import torch
    import yaml

    from palmette.checkpoint import RunFolder, write_atomically
    from palmette.config import Config
    from palmette.corpus import load_corpus
    from palmette.machine import hardware, peak_rss_gb
    from palmette.run import Run
    from palmette.trainer import train

    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    config, data = (Config.parse(yaml.safe_load(job[name])) for name in ("config", "data"))
    whole = load_corpus(data, any_family=True)
    corpus = restrict(whole, config)
    continued = (folder / RUN).exists()
    # What is not trained needs no dev: there is no other model to choose it from.
    splits = ("dev",) if config.is_trained else ()
    try:
        outcome = train(config, folder / RUN, resume=True, corpus=corpus, splits=splits)
    except RunError:
        if not continued:
            raise
        # Begun before the study was moved: its paths differ. What it is to become does not, so begin again.
        shutil.rmtree(folder / RUN)
        continued = False
        outcome = train(config, folder / RUN, corpus=corpus, splits=splits)
    trained = Run.load(folder / RUN)
    history = _history(RunFolder(folder / RUN)) if config.is_trained else _nothing_drawn(config)
    scores, whole_only = _scores(trained, corpus, folder, test=job["test"], trained_on=config.is_trained)
    result = {
        **history,
        "examples": {task: sum(task in e.labels for e in corpus.splits["train"]) for task in corpus.kinds},
        "scores": scores,
        "incomparable": whole_only,
        "parameters": _parameters(trained),
        "bytes": _bytes(trained),
        # An earlier life of this job, which was killed, trained a part of it for a time that nobody noted.
        "seconds": None if continued else round(outcome.seconds - outcome.probe_seconds, 2),
        "probe_seconds": None if continued else round(outcome.probe_seconds, 2),
        "peak_rss_gb": round(peak_rss_gb(), 3),
        **(_usage(trained) if config.family != "heads" else _timing(trained, whole.splits["dev"])),
        "hardware": hardware(),
        "threads": job["threads"],
    }
    write_atomically(folder / RESULT, json.dumps(result) + "\n")
    if not job["keep"] and config.is_trained:
        RunFolder(folder / RUN).weights.unlink()


def restrict(corpus: Corpus, config: Config) -> Corpus:
    """The corpus with the labels of the configuration's tasks only; examples without any go.

    So every regime sees the same examples in the same order, withheld by the same rule, whatever it trains.
    """
    splits = {}
    for split, examples in corpus.splits.items():
        kept = (replace(e, labels={t: label for t, label in e.labels.items() if t in config.tasks}) for e in examples)
        splits[split] = [example for example in kept if example.labels]
    kinds = {task: corpus.kinds[task] for task in config.tasks}
    return replace(corpus, splits=splits, kinds=kinds)


def _nothing_drawn(config: Config) -> dict[str, Any]:
    """What a run that is not trained has instead of a history."""
    return {"updates": 0, "drawn": dict.fromkeys(config.tasks, 0), "wordpieces": 0, "probes": [], "alarms": []}


def _history(run: RunFolder) -> dict[str, Any]:
    """What the run drew, and what its probes and alarms saw."""
    events = [json.loads(line) for line in run.history.read_text(encoding="utf-8").splitlines()]
    epochs = [event for event in events if event["event"] == "epoch"]
    updates = next(event["updates"] for event in events if event["event"] == "started")
    drawn = {task: sum(epoch["tasks"][task]["draws"] for epoch in epochs) for task in epochs[0]["tasks"]}
    return {
        "updates": updates,
        "drawn": drawn,
        "wordpieces": sum(epoch["wordpieces"] for epoch in epochs),
        "probes": [event for event in events if event["event"] == "probe"],
        "alarms": [event for event in events if event["event"] == "alarm"],
    }


def _scores(
    trained: Run, corpus: Corpus, folder: Path, *, test: bool, trained_on: bool
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Score dev, a sample of train and, once in the study, test with each example's part.

    Returns:
        {split: {task: its metric}}, and why the metric of a task (a kind's from another package) has no parts.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from palmette import evaluation

    found = {
        split: evaluation.summarise(scores, trained.kinds)
        for split, scores in json.loads(trained.folder.metrics.read_text(encoding="utf-8")).items()
    }
    found = {"dev": {}, "train": {}} | found
    if trained_on:
        sample = _sample(corpus.splits["train"], list(trained.kinds))
        answers = trained.predictor.answer_labelled(sample)
        found["train"] = evaluation.summarise(evaluation.score(sample, answers, trained.kinds), trained.kinds)
    whole_only: dict[str, str] = {}
    if test:
        examples = corpus.splits["test"]
        usage = getattr(trained.predictor, "usage", {})
        usage.update({task: type(spent)() for task, spent in usage.items()})  # what is reported is of test alone
        answers = trained.predictor.answer_labelled(examples)
        found["test"] = evaluation.summarise(evaluation.score(examples, answers, trained.kinds), trained.kinds)
        parts = {}
        for task, kind in trained.kinds.items():
            pairs = [
                (e.labels[task], a[task].label) for e, a in zip(examples, answers, strict=True) if task in e.labels
            ]
            if pairs:
                gold, predicted = ([pair[side] for pair in pairs] for side in (0, 1))
                try:
                    parts[task] = np.ascontiguousarray(kind.parts(gold, predicted))
                except ConfigError as error:  # hours of training stand behind it: the scores are worth having
                    whole_only[task] = str(error)
        save_file(parts, folder / PARTS)
    return found, whole_only


def _sample(examples: Sequence[Example], tasks: Sequence[str]) -> list[Example]:
    """The first training examples of each task in an order that only their words determine."""
    order = sorted(
        range(len(examples)), key=lambda number: hashlib.sha256(repr(examples[number].key).encode()).digest()
    )
    chosen: set[int] = set()
    for task in tasks:
        chosen.update([number for number in order if task in examples[number].labels][:_TRAIN_SAMPLE])
    return [examples[number] for number in sorted(chosen)]


def _parameters(trained: Run) -> dict[str, Any]:
    """{"shared", "tasks": {task: its own}, "trained"}; of a remote model nobody says, so none."""
    from palmette.model import Model
    from palmette.writing.lora import Adapted

    model, config = trained.model, trained.config
    own = dict.fromkeys(trained.kinds, 0)  # a model that writes has none, unless each task has its adapter
    if not config.is_trained:  # every task is answered by the whole model
        return {"shared": 0 if config.endpoint is not None else model.parameters, "tasks": own, "trained": 0}
    everything = sum(parameter.numel() for parameter in model.parameters())
    if isinstance(model, Model):
        own = {task: sum(p.numel() for p in model.heads[f"task_{task}"].parameters()) for task in trained.kinds}
    elif isinstance(model, Adapted):
        own = model.own_parameters()
    learns = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {
        "shared": everything - sum(own.values()),
        "tasks": own,
        "trained": sum(own.values()) if config.trunk.frozen else learns,
    }


def _bytes(trained: Run) -> int:
    """Of all that must be there to answer: a run's weights on disk; a language model and its adapters in memory."""
    if trained.config.endpoint is not None:
        return 0
    if not trained.config.is_trained:
        return int(trained.model.bytes)
    if trained.config.lora is not None:
        return sum(parameter.numel() * parameter.element_size() for parameter in trained.model.parameters())
    return trained.folder.weights.stat().st_size


def _usage(trained: Run) -> dict[str, Any]:
    """What answering test took a model that writes: milliseconds of all tasks together, and each task's tokens.

    Answers that a remote model had given before say nothing of its time; where a task has no others, nobody knows it.
    """
    predictor: Any = trained.predictor
    usage = {task: spent for task, spent in predictor.usage.items() if spent.examples}
    texts = min((spent.timed for spent in usage.values()), default=0)
    took = sum(1000 * spent.seconds / spent.timed for spent in usage.values()) if texts else None
    return {
        "ms_per_text": None if took is None else round(took, 3),
        "texts": texts,
        "usage": {task: spent.as_json() for task, spent in usage.items()},
    }


def _timing(trained: Run, examples: Sequence[Example]) -> dict[str, Any]:
    """Milliseconds that a text takes, all of the model's tasks together: median of some rounds over the same texts.

    The texts are the same for every model of a study, whatever it answers, and come one at a time, as in a server with
    little to do: sums over models compare, and no model gains by batches of short texts.

    Args:
        trained: the model.
        examples: of dev, of all tasks of the study.
    """
    step = max(1, len(examples) // _TIMED)  # from all sources, which stand one after another
    texts = [replace(example, labels={}) for example in examples[::step][:_TIMED]]
    trained.answer(texts[:10])  # warm
    rounds = []
    for _ in range(_TIMED_ROUNDS):
        started = time.perf_counter()
        for text in texts:
            trained.answer([text])
        rounds.append(time.perf_counter() - started)
    took = 1000 * statistics.median(rounds) / len(texts)
    return {"ms_per_text": round(took, 3), "texts": len(texts), "one_by_one": True}


if __name__ == "__main__":
    main()
