"""The loop: next update, losses, balance, step, evaluate. Everything else has a name elsewhere."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch import Tensor, nn

from palmette import balancing, checkpoint, evaluation
from palmette.alarms import Alarms
from palmette.batching import padding_share, plan_updates, split_update
from palmette.checkpoint import Progress, RunFolder
from palmette.config import Config, TrainingConfig
from palmette.corpus import Corpus, load_corpus
from palmette.errors import ConfigError, RunError
from palmette.learner import HeadsLearner, Learner
from palmette.machine import keep_memory
from palmette.metrics import relative_to_best
from palmette.mixing import Mixing
from palmette.precision import choose_precision
from palmette.probes import Probes, marks
from palmette.types import SPLITS, Example, Prediction, Split
from palmette.writing import prompted
from palmette.writing.instructing import LoraLearner
from palmette.writing.tuning import Seq2SeqLearner

_LOG_EVERY = 20  # updates between lines in history.jsonl


_LEARNERS: dict[str, Callable[[Config, Corpus, torch.device], Learner[Any, Any]]] = {
    "heads": HeadsLearner,
    "text2text": Seq2SeqLearner,
    "causal_lm": LoraLearner,
}


class Listener(Protocol):
    """Something that watches training: a live table, a test."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Called with each line of the history as it is written."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training ended with.

    Attributes:
        folder: the run.
        selected: after which update the kept model was evaluated.
        seconds: wall-clock time of the loop, evaluation and probes included (this process, since it was last started).
        units: labelled units trained on in that time.
        probe_seconds: what probes took of that time.
    """

    folder: RunFolder
    selected: int
    seconds: float
    units: float
    probe_seconds: float = 0.0


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    strict: bool = False,
    corpus: Corpus | None = None,
    listeners: Sequence[Listener] = (),
    splits: Sequence[Split] = ("dev", "test"),
) -> Outcome:
    """Train one model on all tasks and write the run folder.

    Args:
        config: the run.
        out: the run folder; must not hold a run yet, unless resuming.
        resume: go on from the last checkpoint in `out` (from the start where there is none). The weights and
            metrics are then, bit for bit, those of a run that was never interrupted (same machine and threads).
        strict: see `load_corpus`.
        corpus: already loaded data of this configuration.
        listeners: told of every event.
        splits: which of train, dev and test the selected model is measured on at the end. A trial of a study leaves
            test out, so that nothing is chosen by it.

    Raises:
        RunError: `out` holds a run, or one of another configuration; a split is unknown.
        ConfigError, ReadError: see `load_corpus`.
    """
    if unknown := set(splits) - set(SPLITS):
        raise RunError(f"splits: {min(unknown)!r} is not one of {', '.join(SPLITS)}")
    # A process may hold a part of an update in which a task has no example.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    # Accelerate joins processes without a GPU only if it is told to; else each would train alone, in one folder.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(cpu=several and not torch.cuda.is_available(), kwargs_handlers=handlers)
    if accelerator.device.type == "cpu":
        keep_memory()
    folder, config = _resolve(config, Path(out), accelerator, resume=resume)
    if folder.complete and not config.is_trained:
        checkpoint.write_atomically(folder.config, config.dump())  # what its endpoint may cost is perhaps new
        return Outcome(folder, 0, 0.0, 0.0)
    if folder.complete:
        if accelerator.is_main_process:  # the earlier process may have died between the run's last two steps
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
        return Outcome(folder, _selected_in(folder), 0.0, 0.0)
    corpus = corpus or load_corpus(config, strict=strict)
    select = config.training.select
    if select in corpus.kinds and not any(select in example.labels for example in corpus.splits["dev"]):
        raise ConfigError(f"training.select: no dev example is labelled for {select}, so that no model can be selected")
    if not config.is_trained:
        return _ask(config, folder, corpus, listeners, splits)
    torch.manual_seed(config.training.seed)
    learner = _LEARNERS[config.family](config, corpus, accelerator.device)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:  # nothing is written before everything is read
        folder.path.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(folder.config, config.dump())  # first: it makes the folder one to resume
        folder.checkpoints.mkdir(exist_ok=True)
        learner.save_architecture(folder.path)
        checkpoint.write_labels(corpus.kinds, folder)
        checkpoint.write_atomically(folder.data, json.dumps(corpus.summary(), indent=2, ensure_ascii=False) + "\n")
    loop = Loop(config, corpus, learner, folder, accelerator, listeners, splits)
    return loop.run(resume=resume)


def _ask(
    config: Config, folder: RunFolder, corpus: Corpus, listeners: Sequence[Listener], splits: Sequence[Split]
) -> Outcome:
    """Ask a language model instead of training one; an interrupted run begins anew."""
    # Nothing is written before all is checked: a folder with a wrong configuration could not be resumed with another.
    predictor = prompted.open_predictor(config, corpus.kinds, corpus.splits["train"], folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomically(folder.config, config.dump())
    checkpoint.write_labels(corpus.kinds, folder)
    checkpoint.write_atomically(folder.data, json.dumps(corpus.summary(), indent=2, ensure_ascii=False) + "\n")
    folder.history.unlink(missing_ok=True)

    def write(event: Mapping[str, Any]) -> None:
        with folder.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")
        for listener in listeners:
            listener.on_event(event)

    started = time.perf_counter()
    prompted.ask(predictor, config, folder, corpus, splits=splits, write=write)
    return Outcome(folder, 0, time.perf_counter() - started, 0.0)


def _settle_precision(config: Config, device: torch.device) -> Config:
    """The configuration with `auto` replaced by what the first process measured."""
    precision = gather_object([choose_precision(config.training.precision, device)])[0]
    return config.model_copy(update={"training": config.training.model_copy(update={"precision": precision})})


def _resolve(config: Config, out: Path, accelerator: Accelerator, *, resume: bool) -> tuple[RunFolder, Config]:
    """The run folder, new or to be resumed, and the configuration with its precision settled."""
    folder = RunFolder(out)
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; a run is a folder")
    if folder.config.exists():
        if not resume:
            raise RunError(f"{out}: already holds a run: choose another folder, or --resume it")
        earlier = Config.load(folder.config)
        if config.training.precision == "auto":  # what was measured then holds, or the numbers would change
            same = config.training.model_copy(update={"precision": earlier.training.precision})
            config = config.model_copy(update={"training": same})
        if earlier.identity() != config.identity():
            raise RunError(f"{folder.config}: the run was started with another configuration; resume it with that one")
    elif out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise RunError(f"{out}: is not empty and holds no run: choose another folder")
    else:
        config = _settle_precision(config, accelerator.device)
    return folder, config


def rate_factor(config: TrainingConfig, update: int, total: int) -> float:
    """What the peak learning rates are multiplied with in update `update` (from 0) of `total`."""
    warm = math.ceil(config.warmup * total)
    if update < warm:
        return (update + 1) / (warm + 1)
    if config.schedule == "constant":
        return 1.0
    progress = (update - warm) / max(total - warm, 1)
    return 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class _Tally:
    """Sums since the last line of the history."""

    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    updates: int = 0
    units: float = 0.0
    tokens: int = 0
    started: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class _Step:
    """One update of the plan."""

    epoch: int
    rows: list[Any]
    evaluates: bool
    ends_epoch: bool


class Loop:
    """One run in one process (of one or several)."""

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        learner: Learner[Any, Any],
        folder: RunFolder,
        accelerator: Accelerator,
        listeners: Sequence[Listener] = (),
        splits: Sequence[Split] = ("dev", "test"),
    ) -> None:
        self.splits = splits
        self.config = config
        self.training = config.training
        self.corpus = corpus
        self.kinds = corpus.kinds
        self.folder = folder
        self.accelerator = accelerator
        self.listeners = listeners if accelerator.is_main_process else ()
        self.learner = learner
        self.train_examples = corpus.splits["train"]
        self.dev_examples = evaluation.spread(corpus.splits["dev"], self.kinds, self.training.dev_examples)
        self.mixing = Mixing.of(config, self.train_examples)
        self.weights = {task: declared.weight for task, declared in config.tasks.items()}
        self.bare = learner.model
        self.model = accelerator.prepare(learner.model)
        self.optimizer = torch.optim.AdamW(learner.groups(), lr=0.0, fused=True)
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self.alarms = Alarms(
            self.kinds,
            baseline=config.baseline,
            evaluations=self.training.epochs * self.training.evaluations_per_epoch,
            seed=self.training.seed,
        )
        self.units_done = 0.0
        self.probe_seconds = 0.0

    def run(self, *, resume: bool) -> Outcome:
        """Train, select, evaluate the selected model."""
        steps = [step for epoch in range(self.training.epochs) for step in self._plan(epoch)]
        probe, probed = self._prepare_probes(steps)
        started = time.perf_counter()
        done = self._restore() if resume else 0
        if done == 0:
            self._write(self._description(len(steps)))
        self.bare.train()  # transformers loads models in evaluation mode, without dropout
        tally = _Tally()
        for update, step in enumerate(steps[done:], start=done + 1):
            if self._exhausted():
                self._stop_early(steps[: update - 1], len(steps), tally)
                break
            self._step(step.rows, rate_factor(self.training, update - 1, len(steps)), tally)
            if update % _LOG_EVERY == 0 or update == len(steps):
                tally = self._log(tally, step.epoch, update, len(steps))
            if update in probed:
                self._probe(probe, update)
            if step.evaluates:
                self._evaluate(step.epoch, update)
            if step.ends_epoch:
                self._report_epoch(step.epoch, [other.rows for other in steps if other.epoch == step.epoch])
            if step.evaluates or update % self.training.checkpoint_updates == 0:
                self._save(update)
        return self._finish(time.perf_counter() - started)

    def _description(self, updates: int) -> dict[str, Any]:
        """The history's first line: what ran on what."""
        return {
            "event": "started",
            "updates": updates,
            "parameters": sum(parameter.numel() for parameter in self.bare.parameters()),
            "trained": sum(p.numel() for p in self.bare.parameters() if p.requires_grad),
            "precision": self.training.precision,
            "device": str(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            **({"dev_examples": self.training.dev_examples} if self.training.dev_examples is not None else {}),
        }

    def _plan(self, epoch: int) -> list[_Step]:
        """The updates of an epoch; the last one of each stretch between evaluations evaluates."""
        rows = self.learner.rows(self.mixing.draw(epoch))
        rng = np.random.default_rng([self.training.seed, 2, epoch])
        learner, budget = self.learner, self.training.batch_tokens
        updates = plan_updates(rows, batch_tokens=budget, rng=rng, sizes=learner.sizes, lengths=learner.lengths)
        times = self.training.evaluations_per_epoch
        marks = {max(1, round(len(updates) * n / times)) for n in range(1, times + 1)}
        return [
            _Step(epoch, rows, evaluates=number in marks, ends_epoch=number == len(updates))
            for number, rows in enumerate(updates, start=1)
        ]

    def _step(self, rows: Sequence[Any], factor: float, tally: _Tally) -> None:
        """One update: every part's losses, balanced, backward; clip; step."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        parts = split_update(rows, self.training.accumulation * processes)
        own = [self.learner.collate(part) if part else None for part in parts[rank::processes]]
        units = self._units(own)
        filler = next((batch for batch in own if batch is not None), None)
        if filler is None:
            filler = self.learner.collate(next(part for part in parts if part))
        for number, batch in enumerate(own):
            last = number + 1 == len(own)
            if last or processes == 1:
                self._backward(batch, filler, units, tally)
            else:
                with self.accelerator.no_sync(self.model):
                    self._backward(batch, filler, units, tally)
        nn.utils.clip_grad_norm_(self.bare.parameters(), self.training.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        tally.updates += 1
        tally.units += sum(units.values())
        tally.tokens += sum(map(len, rows))
        self.units_done += sum(units.values())

    def _units(self, batches: Sequence[Any]) -> dict[str, float]:
        """Labelled units of each task in the whole update: denominators are the same for all parts and processes."""
        units = dict.fromkeys(self.kinds, 0.0)
        for batch in batches:
            for task, count in self.learner.units(batch).items() if batch is not None else ():
                units[task] += count
        if self.accelerator.num_processes > 1:
            counts = torch.tensor(list(units.values()), dtype=torch.float64, device=self.accelerator.device)
            units = dict(zip(units, self.accelerator.reduce(counts, reduction="sum").tolist(), strict=True))
        return units

    def _backward(self, batch: Any, filler: Any, units: Mapping[str, float], tally: _Tally) -> None:
        if batch is None:  # this process has no row in this part, but must take part in the exchange of gradients
            losses = self.learner.losses(self.model, filler, dict.fromkeys(units, 1.0))
            self.accelerator.backward(sum(losses.values()) * 0.0)
            return
        losses = self.learner.losses(self.model, batch, units)
        for task, loss in losses.items():
            tally.losses.setdefault(task, []).append(loss.detach())
        # Processes average their gradients; the loss is a sum over them.
        self.accelerator.backward(balancing.combine(losses, self.weights) * self.accelerator.num_processes)

    def _prepare_probes(self, steps: Sequence[_Step]) -> tuple[Probes | None, frozenset[int]]:
        """What measures the tasks' gradients (in the first process only), and after which updates."""
        count = self.training.probes
        if not count:
            return None, frozenset()
        probe = None
        if self.accelerator.is_main_process:
            tokens = sum(len(row) for step in steps for row in step.rows)
            probe = self.learner.probes(tokens)
        return probe, marks(count, len(steps))

    def _probe(self, probe: Probes | None, update: int) -> None:
        if probe is not None:
            started = time.perf_counter()
            found = probe.measure()
            self.probe_seconds += time.perf_counter() - started
            self.alarms.probed(found["cosine"])
            self._write({"event": "probe", "update": update, **found})
        self.accelerator.wait_for_everyone()

    def _evaluate(self, epoch: int, update: int) -> None:
        examples = self.dev_examples
        answers = self._answers(examples)
        scores = evaluation.score(examples, answers, self.kinds)
        if self.accelerator.is_main_process:
            checkpoint.save_tensors(checkpoint.own_tensors(self.bare), self.folder.candidate(update))
        values = evaluation.summarise(scores, self.kinds)
        self.evaluations.append((update, values))
        self._write({"event": "evaluation", "epoch": epoch + 1, "update": update, "dev": scores})
        if self.accelerator.is_main_process:
            for event in self.alarms.look(examples, answers, values, update=update, epoch=epoch + 1):
                self._write(event)

    def _scores(self, split: str) -> evaluation.Scores:
        examples = self.corpus.splits[split]
        return evaluation.score(examples, self._answers(examples), self.kinds)

    def _answers(self, examples: Sequence[Example]) -> list[dict[str, Prediction]]:
        """Predictions for the tasks that each example is labelled for, shared out among the processes."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        self.bare.eval()
        own = self.learner.predictor.answer_labelled(examples[rank::processes])
        self.bare.train()
        answers: list[Any] = [None] * len(examples)
        for number, share in enumerate(gather_object([own])):
            answers[number::processes] = share
        return answers

    def _exhausted(self) -> bool:
        """Whether the best evaluation is `patience` evaluations old."""
        patience = self.training.patience
        if patience is None or not self.evaluations:
            return False
        best = [update for update, _ in self.evaluations].index(_select(self.config, self.evaluations))
        return len(self.evaluations) - 1 - best >= patience

    def _stop_early(self, steps: Sequence[_Step], total: int, tally: _Tally) -> None:
        """Tell of the updates since the last line, of the epoch that has no end, and why."""
        last, update = steps[-1], len(steps)
        if tally.updates:
            self._log(tally, last.epoch, update, total)
        if not last.ends_epoch:
            self._report_epoch(last.epoch, [step.rows for step in steps if step.epoch == last.epoch])
        self._write({"event": "stopped", "epoch": last.epoch + 1, "update": update, "patience": self.training.patience})

    def _report_epoch(self, epoch: int, updates: Sequence[Sequence[Any]]) -> None:
        """What became of each task's examples in an epoch, or in the part of it that was trained."""
        trained = {row.example for rows in updates for row in rows}
        count = self.training.accumulation * self.accelerator.num_processes
        computed = [part for rows in updates for part in split_update(rows, count) if part]
        drawn = np.array([number for number in self.mixing.draw(epoch) if number in trained], dtype=np.int64)
        ever = np.unique(np.concatenate([*map(self.mixing.draw, range(epoch)), drawn]))
        seen_ever = set(ever.tolist())
        tasks = {}
        for task in self.kinds:
            labelled = [n for n, example in enumerate(self.train_examples) if task in example.labels]
            tasks[task] = {
                "draws": int(sum(task in self.train_examples[n].labels for n in drawn)),
                "seen": len(set(drawn.tolist()) & set(labelled)),
                "never_seen": len(set(labelled) - seen_ever),
                **self.learner.counts(task, labelled),
            }
        self._write(
            {
                "event": "epoch",
                "epoch": epoch + 1,
                "tasks": tasks,
                "wordpieces": sum(len(row) for rows in updates for row in rows),
                "padding": round(padding_share(computed, sizes=self.learner.sizes), 4),
            }
        )

    def _log(self, tally: _Tally, epoch: int, update: int, total: int) -> _Tally:
        seconds = time.perf_counter() - tally.started
        own = {task: float(torch.stack(losses).sum()) for task, losses in tally.losses.items()}
        sums: dict[str, float] = {}
        for share in gather_object([own]):  # a process has the losses of its own rows only
            for task, loss in share.items():
                sums[task] = sums.get(task, 0.0) + loss
        for task, total_loss in sums.items():
            if not math.isfinite(total_loss):
                raise RunError(
                    f"{self.folder.path}: training diverged: the loss of {task} is {total_loss} by update {update} of "
                    f"{total}; begin anew with a lower training.learning_rate, or a lower weight of the task"
                )
        self._write(
            {
                "event": "progress",
                "epoch": epoch + 1,
                "update": update,
                "updates": total,
                "loss": {task: round(sums[task] / tally.updates, 5) for task in sorted(sums)},
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "units_per_second": round(tally.units / seconds, 1),
                "tokens_per_second": round(tally.tokens / seconds, 1),
            }
        )
        return _Tally()

    def _write(self, event: Mapping[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with self.folder.history.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event, ensure_ascii=False) + "\n")
        for listener in self.listeners:
            listener.on_event(event)

    def _save(self, update: int) -> None:
        history = self.folder.history.stat().st_size if self.accelerator.is_main_process else 0
        checkpoint.save_progress(
            self.folder,
            Progress(update, history, self.evaluations, self.alarms.state, self.alarms.best),
            self.bare,
            self.optimizer,
            rank=self.accelerator.process_index,
            wait=self.accelerator.wait_for_everyone,
        )
        if self.accelerator.is_main_process:  # only now that the evaluation which dominates them is on record
            keep = set(undominated(self.evaluations))
            for number, (earlier, _) in enumerate(self.evaluations):
                if number not in keep:
                    self.folder.candidate(earlier).unlink(missing_ok=True)

    def _restore(self) -> int:
        latest = checkpoint.latest_progress(self.folder)
        if latest is None:
            if self.accelerator.is_main_process and self.folder.history.exists():
                self.folder.history.unlink()
            return 0
        progress = checkpoint.load_progress(
            latest,
            self.bare,
            self.optimizer,
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        self.evaluations = progress.evaluations
        self.alarms.state, self.alarms.best = progress.alarms, dict(progress.best)
        if self.accelerator.is_main_process:
            os.truncate(self.folder.history, progress.history_bytes)
        return progress.update

    def _finish(self, seconds: float) -> Outcome:
        """Select over all evaluations at once, measure the splits asked for, leave the run folder complete."""
        selected = _select(self.config, self.evaluations)
        self.accelerator.wait_for_everyone()
        checkpoint.load_weights(self.bare, self.folder.candidate(selected))
        scores = {split: found for split in self.splits if (found := self._scores(split))}
        self._write({"event": "selected", "update": selected, "rule": self.training.select, **scores})
        if self.accelerator.is_main_process:
            checkpoint.write_atomically(self.folder.metrics, json.dumps(scores, indent=2) + "\n")
            # Last, and by renaming: a folder with weights is a finished run.
            self.folder.candidate(selected).replace(self.folder.weights)
            shutil.rmtree(self.folder.checkpoints)  # nothing to resume any more
        self.accelerator.wait_for_everyone()
        return Outcome(self.folder, selected, seconds, self.units_done, self.probe_seconds)


def _select(config: Config, evaluations: Sequence[tuple[int, Mapping[str, float]]]) -> int:
    """The update whose evaluation is best by the rule; the earliest of equals that no other dominates.

    Without any dev example nothing can be compared, and the last model is kept.
    """
    histories = {task: [values.get(task, 0.0) for _, values in evaluations] for task in config.tasks}
    rule = config.training.select
    scores = relative_to_best(histories) if rule == "mean_relative" else histories[rule]
    # A rule may be blind to where a dominated evaluation falls behind (another task; a metric never above 0).
    kept = [n for n in undominated(evaluations) if not math.isnan(scores[n])] or [len(evaluations) - 1]
    return evaluations[max(kept, key=lambda number: scores[number])][0]


def undominated(evaluations: Sequence[tuple[int, Mapping[str, float]]]) -> list[int]:
    """Which evaluations could still be selected: those that no other matches or beats in every task.

    Under any rule that grows with each task's metric, a dominated model never wins, so its weights need not be kept.
    """
    if not any(values for _, values in evaluations):
        return [len(evaluations) - 1]
    kept = []
    for number, (_, values) in enumerate(evaluations):
        beaten = any(
            all(others[task] >= value for task, value in values.items())
            and (earlier < number or any(others[task] > value for task, value in values.items()))
            for earlier, (_, others) in enumerate(evaluations)
            if earlier != number
        )
        if not beaten:
            kept.append(number)
    return kept


def _selected_in(folder: RunFolder) -> int:
    """Which update's model a finished run kept."""
    lines = [json.loads(line) for line in folder.history.read_text(encoding="utf-8").splitlines()]
    return next(int(line["update"]) for line in reversed(lines) if line["event"] == "selected")
