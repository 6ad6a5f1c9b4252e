"""A study from beginning to end: plan, trials, runs, evidence, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from palmette import __version__
from palmette.checkpoint import write_atomically
from palmette.config import Config
from palmette.corpus import Corpus, load_corpus
from palmette.errors import ConfigError, RunError
from palmette.machine import cores
from palmette.mixing import Mixing, sampling_rates
from palmette.study import ledger, tuning
from palmette.study.evidence import Group, Trial, weigh
from palmette.study.execute import Engine, Processes, Result, Store
from palmette.study.jobs import Job
from palmette.study.plan import Plan
from palmette.study.regimes import REGIMES, ModelPlan, Setting, adjusted, epochs_alone, only_tasks
from palmette.study.report import VERSION, write_report

STUDY, LEDGER, CONFIG = "study.json", "ledger.json", "config.yaml"
_TRIAL_SEED = 0  # final runs have seeds from 1
_SEARCH_SEED = 20  # of the sequence of settings

Say = Callable[[str], None]


def compare(
    config: Config,
    out: str | Path,
    *,
    plan: Plan,
    engine: Engine | None = None,
    threads: int | None = None,
    strict: bool = False,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train every model of a study that is not there yet, weigh the evidence, write the report.

    Args:
        config: the tasks, their sources, and how the multi-task model is trained.
        out: the study's folder, new or to be continued or extended: finished runs are found again by what
            determines their result.
        plan: what to compare, and at what cost.
        engine: where the runs are made; default: one after another on this machine.
        threads: for each run; results are the same, bit for bit, only for the same number. Default: all cores.
        strict: see `load_corpus`.
        say: is told what happens, a line at a time.

    Returns:
        What `study.json` holds.

    Raises:
        RunError: another process works on the folder, or a task has no dev or test examples.
        ConfigError, ReadError: the configuration or its data are wrong; nothing was run.
    """
    out, say = Path(out), say or _nothing
    corpus = load_corpus(config, strict=strict, any_family=True)
    for task in config.tasks:
        for split in ("dev", "test"):
            if not corpus.reports[split].labelled.get(task):
                labelling = ", ".join(str(source.name) for source in config.sources if task in source.labels)
                raise RunError(
                    f"tasks.{task}: no {split} example: a study selects on dev and is measured on test; its sources "
                    f"({labelling}) must have both"
                )
    capped = cap(config, plan, corpus)
    if capped != config:
        corpus = load_corpus(capped, strict=strict, any_family=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise RunError(f"{out}: is a file; a study is a folder") from error
    try:
        with FileLock(out / ".lock", timeout=0):
            settled = settle(capped, out)
            if config.training.select != settled.training.select:
                say(f"selecting by {settled.training.select}: a single task cannot select for models without it")
            study = _Study(settled, out, plan, corpus, engine or Processes(), threads or cores(), say)
            return study.run(strict=strict)
    except Timeout as error:
        raise RunError(f"{out}: another process is working on this study") from error


def _nothing(line: str) -> None:
    del line


def cap(config: Config, plan: Plan, corpus: Corpus) -> Config:
    """The configuration with each task's training examples cut so far that no run draws more than the plan allows."""
    if plan.examples is None:
        return config
    fractions = {}
    for task, count in corpus.reports["train"].labelled.items():
        kept = plan.examples // config.training.epochs
        fraction = config.tasks[task].train_fraction * min(1.0, kept / count)
        fractions[f"tasks.{task}.train_fraction"] = fraction
    return adjusted(config, fractions)


def settle(config: Config, out: Path) -> Config:
    """The configuration with what all runs of a study have in common: precision, measured once, and selection.

    A run may select its checkpoint by one task. Models without that task could not, nor could trials be chosen by it
    fairly: in a study every choice on dev is by the mean of the tasks relative to their best.
    """
    place = out / CONFIG
    config = adjusted(config, {"training.select": "mean_relative"})
    if config.training.precision == "auto":
        precision = Config.load(place).training.precision if place.exists() else _measured_precision()
        config = adjusted(config, {"training.precision": precision})
    write_atomically(place, config.dump())
    return config


def _measured_precision() -> str:
    import torch

    from palmette.precision import choose_precision

    return choose_precision("auto", torch.device("cuda" if torch.cuda.is_available() else "cpu"))


class _Study:
    def __init__(
        self, config: Config, out: Path, plan: Plan, corpus: Corpus, engine: Engine, threads: int, say: Say
    ) -> None:
        self.config = config
        self.out = out
        self.plan = plan
        self.corpus = corpus
        self.say = say
        self.threads = threads
        self.store = Store(out, engine, threads=threads)
        self.started = datetime.now(UTC).isoformat(timespec="seconds")

    def run(self, *, strict: bool) -> dict[str, Any]:
        setting = self._setting(self.config, self.corpus)
        regimes: dict[str, Group] = {
            name: Group(name, REGIMES[name](setting), describe(name)) for name in self.plan.regimes
        }
        self._tune(list(regimes.values()))
        others = self._designs(regimes["multi_task"]) if "multi_task" in regimes else {}
        curves = self._curves(regimes, strict=strict)
        self._train([*regimes.values(), *others.values(), *curves.values()])
        study = {
            "version": VERSION,
            "title": ", ".join(self.config.tasks),
            "plan": self._described(regimes),
            "tasks": self._tasks(),
            **weigh(self.plan, self.corpus.kinds, regimes, others, curves, curve_task(self.plan, self.corpus)),
        }
        self._write(STUDY, study)
        self._write(LEDGER, ledger.tally(regimes, [*others.values(), *curves.values()], started=self.started))
        write_report(self.out)
        return study

    def _setting(self, config: Config, corpus: Corpus) -> Setting:
        """What the regimes are made from; a task alone sees its examples as often as the mix draws them."""
        mixing = Mixing.of(config, corpus.splits["train"])
        rates = sampling_rates(mixing)
        for task, rate in rates.items():
            drawn = round(config.training.epochs * rate * mixing.labelled[task])
            if self.plan.examples is not None and drawn > self.plan.examples:
                raise ConfigError(
                    f"--budget: at most {self.plan.examples} examples of a task, but mixing draws {drawn} of {task}: "
                    f"lower its share (mixing.kind {config.mixing.kind}) or allow more"
                )
        # Probes are of the plan, which gives them to the multi-task model.
        return Setting(adjusted(config, {"training.probes": 0}), self.plan, epochs_alone(config, rates))

    def _job(
        self, model: ModelPlan, seed: int, settings: Mapping[str, float], *, test: bool, data: Config | None = None
    ) -> Job:
        data = data or self.config
        start = None if model.start is None else self._job(model.start, seed, {}, test=False, data=data)
        config = adjusted(model.config, {**settings, "training.seed": seed if model.seeded else _TRIAL_SEED})
        return Job(config, data, start=start, test=test, keep=model.keep)

    def _tune(self, groups: Sequence[Group]) -> None:
        """Trials of every model, all of them planned before the first is run."""
        for group in groups:
            for model in group.models:
                tried = tuning.suggest(model, self.plan.trials, seed=_SEARCH_SEED)
                group.trials[model.name] = [
                    Trial(settings, self._job(model, _TRIAL_SEED, settings, test=False)) for settings in tried
                ]
        if self.plan.trials > 1:
            jobs = [trial.job for group in groups for trials in group.trials.values() for trial in trials]
            results = self._run(jobs, "trials")
        for group in groups:
            for model in group.models:
                trials = group.trials[model.name]
                if self.plan.trials == 1:
                    trials[0].chosen = True
                    continue
                for trial in trials:
                    trial.result = results[trial.job.key]
                dev = [trial.result.measured.get("scores", {}).get("dev") for trial in trials if trial.result]
                best, scores = tuning.choose(model.tasks, dev)
                for number, (trial, score) in enumerate(zip(trials, scores, strict=True)):
                    trial.score, trial.chosen = score, number == best

    def _designs(self, multi: Group) -> dict[str, Group]:
        """Models of other groups of tasks, with the settings that the multi-task model was given."""
        (model,) = multi.models
        sizes = {"pairs": 2, "leave_one_out": len(model.tasks) - 1}
        found: dict[str, Group] = {}
        for design in self.plan.designs:
            size = sizes[design]
            # Of two tasks, all but one is the task alone, and the only pair is the model of all.
            groups = list(combinations(model.tasks, size)) if size > 1 else []
            config = adjusted(model.config, multi.settings(model))
            unprobed = adjusted(config, {"training.probes": 0})
            models = [
                ModelPlan(tasks, config, keep=True)
                if tasks == model.tasks
                else ModelPlan(tasks, only_tasks(unprobed, tasks))
                for tasks in groups
            ]
            found[design] = Group(design, models)
        return found

    def _curves(self, regimes: Mapping[str, Group], *, strict: bool) -> dict[tuple[float, str], Group]:
        """The regimes again, with a part of one task's training data and all of the others'; settings as chosen."""
        task = curve_task(self.plan, self.corpus)
        found = {}
        for percent in self.plan.curve:
            if percent == 100:  # the regimes themselves
                found.update({(percent, name): group for name, group in regimes.items()})
                continue
            share = self.config.tasks[task].train_fraction * percent / 100
            config = adjusted(self.config, {f"tasks.{task}.train_fraction": share})
            setting = self._setting(config, load_corpus(config, strict=strict, any_family=True))
            for name, group in regimes.items():
                models = [
                    replace(model, config=adjusted(model.config, group.settings(model)), keep=False)
                    for model in REGIMES[name](setting)
                    if task in model.tasks
                ]
                found[percent, name] = Group(f"{name} at {percent:g} %", models)
        return found

    def _train(self, groups: Sequence[Group]) -> None:
        """Every model with every seed."""
        planned: list[tuple[Group, ModelPlan, int, Job]] = []
        for group in groups:
            for model in group.models:
                fractions = {
                    f"tasks.{task}.train_fraction": declared.train_fraction
                    for task, declared in model.config.tasks.items()
                }
                data = adjusted(self.config, fractions)
                settings = group.settings(model)
                planned += [
                    (group, model, seed, self._job(model, seed, settings, test=True, data=data))
                    for seed in range(1, self.plan.seeds + 1)
                ]
        planned.sort(key=lambda one: one[2])  # seed by seed: an interrupted study has seen every model
        results = self._run([job for *_, job in planned], "runs")
        for group, model, seed, job in planned:
            group.runs[model.name, seed] = (job, results[job.key])

    def _run(self, jobs: Sequence[Job], what: str) -> dict[str, Result]:
        """Results by key; says how many there are to make, and each as it ends."""
        distinct = {job.key: job for job in jobs}
        missing = sum(not self.store.finished(job) for job in distinct.values())
        self.say(f"{len(distinct)} {what}, {len(distinct) - missing} of them there already")
        return self.store.run(list(distinct.values()), self._told)

    def _told(self, job: Job, result: Result) -> None:
        measured = result.measured
        name = f"{job.model}, seed {job.seed}"
        if result.error is not None:
            self.say(f"{name}: FAILED: {result.error}")
            return
        split = "test" if job.test else "dev"
        scores = ", ".join(f"{task} {value:.4f}" for task, value in measured["scores"][split].items())
        took = "" if measured["seconds"] is None else f" ({measured['seconds']:.0f} s)"
        self.say(f"{name}: {split} {scores}{took}")

    def _described(self, regimes: Mapping[str, Group]) -> dict[str, Any]:
        return {
            "regimes": list(self.plan.regimes),
            "design": ["regimes", *self.plan.designs],
            "seeds": list(range(1, self.plan.seeds + 1)),
            "trials": self.plan.trials,
            "search": {name: tuning.as_json(group.models[0].search) for name, group in regimes.items()},
            "examples": self.plan.examples,
            "epochs": self.config.training.epochs,
            "probes": self.plan.probes,
            "level": self.plan.level,
            "select": self.config.training.select,
            "baseline_regime": "single_task",
            "versions": {"palmette": __version__, **{name: version(name) for name in ("torch", "transformers")}},
        }

    def _tasks(self) -> dict[str, Any]:
        return {
            task: {
                "kind": self.config.tasks[task].kind,
                "metric": kind.metric,
                "baseline": self.plan.baseline(kind),
                "examples": {
                    split: sum(task in example.labels for example in examples)
                    for split, examples in self.corpus.splits.items()
                },
            }
            for task, kind in self.corpus.kinds.items()
        }

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_atomically(self.out / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def describe(regime: str) -> str:
    """What a regime is, in the words of its function's documentation."""
    return " ".join((REGIMES[regime].__doc__ or "").strip().partition("\n\n")[0].split())


def curve_task(plan: Plan, corpus: Corpus) -> str:
    """The task that the learning curve cuts: the plan's, else the one with the fewest training examples."""
    labelled = corpus.reports["train"].labelled
    return plan.curve_task or min(labelled, key=lambda task: (labelled[task], task))
