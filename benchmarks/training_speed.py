"""Labelled units trained per second: Palmette, a bare PyTorch loop over the same batches, Flair and tasknet.

A unit is one labelled word or one labelled text; padding does not count. All systems train the same trunk in fp32 with
the same number of threads on the same sentences (the first N of the reference mix, its sources in proportion). Each
runs in a process of its own that stands still until it is asked for a slice; slices alternate between the systems, so
that a slow minute of the machine hits all of them. Evaluation and checkpoints are in no slice.

- palmette: the real trainer (`palmette.trainer.train`), gated in front of updates.
- bare: the very batches that Palmette planned, as tensors made beforehand; transformers' BertModel, a linear layer a
  task, fused AdamW, clipping. With the attention (eager or sdpa) that is faster here.
- flair, tasknet: their multi-task trainers in virtual environments that this script makes, each at the fastest of
  several batch sizes. Both encode a sentence once for each of its tasks; flair_all_tasks is Flair's option
  `use_all_tasks` over hand-marked sentences, which does not.

    python benchmarks/training_speed.py            # about 25 minutes on 2 cores, after the environments are made
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import common
from environments import CACHE, PEERS, environment, trunk_folder

if TYPE_CHECKING:
    from palmette.corpus import Corpus
    from palmette.types import Example

SYSTEMS = ("palmette", "bare", "flair", "flair_all_tasks", "tasknet")
_WARM_UP_UPDATES = 2
_WARM_UP_SENTENCES = 64


# --- The parent -------------------------------------------------------------------------------------------------------


@dataclass
class System:
    """One competitor: its process, and what was measured."""

    worker: common.Worker
    settings: dict[str, Any]
    batches: int
    slice_batches: int
    details: dict[str, Any]
    slices: list[dict[str, float]] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Units per second of each slice."""
        return [found["units"] / found["seconds"] for found in self.slices]


def main() -> None:
    """Measure and report."""
    arguments = _arguments()
    if arguments.child:
        with common.only_errors_on_stdout() as answers:
            _child(answers)
        return
    common.use_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder, common.only_errors_on_stdout():
        systems, calibration = _measure(arguments, Path(folder))
    _report(arguments, systems, calibration)


def _arguments() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--config", type=Path, default=common.REFERENCE)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting of Palmette"
    )
    parser.add_argument("--sentences", type=int, default=3800, help="training sentences of the mix (default 3800)")
    parser.add_argument("--slices", type=int, default=5, help="measured slices of each system (default 5)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[8, 16, 32, 64], help="that peers are tried at")
    parser.add_argument("--calibration-sentences", type=int, default=320, help="sentences that each batch size gets")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, System], dict[str, Any]]:
    base = {
        "threads": arguments.threads,
        "config": str(arguments.config),
        "overrides": arguments.set,
        "sentences": arguments.sentences,
        "seed": 13,
        "learning_rate": 1e-4,
        "max_length": 256,
        "data": str(folder / "data.json"),
    }
    common.log(f"data: the first {arguments.sentences} sentences")
    counts = common.run_child(__file__, base | {"role": "data"})
    common.log(f"  {counts}")
    calibration: dict[str, Any] = {"data": counts}
    chosen: dict[str, dict[str, Any]] = {}
    for name in arguments.systems:
        options = _options(name, arguments)
        tried = []
        for option in options if len(options) > 1 else []:
            system = _start(name, base | option, arguments)
            common.log(f"{name} {option}: {system.batches} batches a pass")
            batches = max(1, arguments.calibration_sentences // option.get("batch_size", 64))
            _slice(system, batches)
            system.worker.stop()
            # Sentences (of bare: the same updates), not units: a peer's batch of texts has few units and costs as
            # much as one of words.
            rate = batches * option.get("batch_size", 1) / system.slices[0]["seconds"]
            tried.append({**option, "per_second": round(rate, 2)})
        calibration[name] = tried
        best = max(range(len(tried)), key=lambda n: tried[n]["per_second"]) if tried else 0
        chosen[name] = base | options[best]
    systems = {name: _start(name, settings, arguments) for name, settings in chosen.items()}
    try:
        for number in range(arguments.slices):
            names = list(systems)
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                _slice(systems[name], systems[name].slice_batches)
                common.log(f"slice {number + 1}: {name}: {systems[name].rates[-1]:.1f} units/s")
    finally:
        for system in systems.values():
            system.worker.stop()
    return systems, calibration


def _options(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The settings among which the fastest is looked for."""
    if name == "palmette":
        return [{}]
    if name == "bare":
        return [{"attention": "eager"}, {"attention": "sdpa"}]
    mode = {"flair": {"mode": "separate"}, "flair_all_tasks": {"mode": "all_tasks"}}.get(name, {})
    return [{"batch_size": size, **mode} for size in arguments.batch_sizes]


def _start(name: str, settings: Mapping[str, Any], arguments: argparse.Namespace) -> System:
    """Start a system's process and let it warm up."""
    if name in {"palmette", "bare"}:
        worker = common.Worker([sys.executable, __file__, "--child"], name=name)
        warm = _WARM_UP_UPDATES
    else:
        peer = name.removesuffix("_all_tasks")
        python = environment(peer, arguments.cache)
        settings = {**settings, "trunk": trunk_folder(python)}
        worker = common.Worker([python, PEERS / f"{peer}_multitask.py"], name=name)
        warm = max(2, _WARM_UP_SENTENCES // settings["batch_size"])
    found = worker.ask({**settings, "role": name})
    batches = int(found.pop("batches"))
    worker.ask({"batches": warm})
    return System(worker, dict(settings), batches, max(1, (batches - warm) // arguments.slices), found)


def _slice(system: System, batches: int) -> None:
    system.slices.append(system.worker.ask({"batches": batches}))


def _report(arguments: argparse.Namespace, systems: Mapping[str, System], calibration: Mapping[str, Any]) -> None:
    medians = {name: statistics.median(system.rates) for name, system in systems.items()}
    headline: dict[str, float | str] = {f"{name} units/s": round(rate, 1) for name, rate in medians.items()}
    ratios: dict[str, float] = {}
    paired: dict[str, float] = {}
    if "palmette" in systems:
        own = systems["palmette"].rates
        for name, system in systems.items():
            if name != "palmette":
                ratios[name] = round(medians["palmette"] / medians[name], 3)
                paired[name] = round(statistics.median(a / b for a, b in zip(own, system.rates, strict=True)), 3)
                headline[f"palmette / {name}"] = ratios[name]
    targets = {}
    if "bare" in ratios:
        targets["palmette / bare"] = common.Target(ratios["bare"], 0.9)
    if "flair" in ratios and "tasknet" in ratios:
        targets["palmette / faster peer"] = common.Target(min(ratios["flair"], ratios["tasknet"]), 2.0)
    same = {
        name: [found["units"] for found in systems[name].slices] for name in ("palmette", "bare") if name in systems
    }
    if len(same) == 2 and same["palmette"] != same["bare"]:
        raise SystemExit(f"palmette and bare did not train on the same batches: {same}")
    details = {
        "sentences": arguments.sentences,
        "ratios_of_medians": ratios,
        "medians_of_paired_ratios": paired,
        "calibration": calibration,
        "systems": {
            name: {
                "settings": {key: system.settings.get(key) for key in ("attention", "batch_size", "mode")},
                "batches_a_pass": system.batches,
                "slice_batches": system.slice_batches,
                "units_per_second": [round(rate, 1) for rate in system.rates],
                "slices": system.slices,
                **system.details,
            }
            for name, system in systems.items()
        },
    }
    overrides = "".join(f" {override}" for override in arguments.set)
    common.report(
        "training_speed",
        f"reference mix{overrides}",
        arguments=arguments,
        headline=headline,
        targets=targets,
        details=details,
    )


# --- Children: Palmette, the bare loop, the peers' data ---------------------------------------------------------------


class _Stopped(Exception):  # noqa: N818 - not an error
    """The parent wants no more slices."""


class _Gate:
    """Lets updates through as the parent asks for them, and times them."""

    def __init__(self, answers: IO[str]) -> None:
        self.answers = answers
        self.left = 0
        self.units = 0.0
        self.started = 0.0

    def describe(self, **found: Any) -> None:
        """Tell the parent what is there."""
        self.answers.write(json.dumps(found) + "\n")

    def before(self) -> None:
        """Wait for a request where the last slice has ended."""
        import time

        if self.left == 0:
            request = sys.stdin.readline()
            if not request:
                raise _Stopped
            self.left = json.loads(request)["batches"]
            self.units, self.started = 0.0, time.perf_counter()

    def after(self, units: float) -> None:
        """Count an update; answer where the slice ends."""
        import time

        self.left -= 1
        self.units += units
        if self.left == 0:
            self.describe(seconds=time.perf_counter() - self.started, units=self.units)


def _child(answers: IO[str]) -> None:
    job = json.loads(sys.stdin.readline())
    corpus, config = _load(job)
    if job["role"] == "data":
        answers.write(json.dumps(_write_data(corpus, Path(job["data"]))) + "\n")
        return
    import torch

    torch.set_num_threads(job["threads"])
    try:
        if job["role"] == "palmette":
            _run_palmette(config, corpus, _Gate(answers))
        else:
            _run_bare(config, corpus, _Gate(answers), attention=job["attention"], seed=job["seed"])
    except _Stopped:
        return


def _load(job: Mapping[str, Any]) -> tuple[Corpus, Any]:
    """The first sentences of the training data, nothing to evaluate on, and the configuration in fp32."""
    from dataclasses import replace

    from palmette.config import Config
    from palmette.corpus import load_corpus

    settings = ["precision=fp32", "epochs=1", "evaluations_per_epoch=1", "checkpoint_updates=1000000"]
    config = Config.load(job["config"], [*job["overrides"], *(f"training.{setting}" for setting in settings)])
    corpus = load_corpus(config)
    chosen = subset(corpus.splits["train"], job["sentences"])
    return replace(corpus, splits={"train": chosen, "dev": [], "test": []}), config


def subset(examples: Sequence[Example], count: int) -> list[Example]:
    """The first examples of each combination of sources, in proportion, `count` in all (up to rounding)."""
    groups: dict[tuple[str, ...], list[Example]] = {}
    for example in examples:
        groups.setdefault(example.sources, []).append(example)
    share = min(1.0, count / len(examples))
    return [example for group in groups.values() for example in group[: round(len(group) * share)]]


def _write_data(corpus: Corpus, path: Path) -> dict[str, int]:
    """The sentences as simple JSON for the peers; -> how many, and units by task."""
    tasks = {}
    for name, kind in corpus.kinds.items():
        tags = "spans" if kind.config.scheme else "tags"
        tasks[name] = {"sequence_labeling": tags, "text_classification": "text"}[kind.config.kind]
    examples = [{"words": e.text.words, "labels": dict(e.labels)} for e in corpus.splits["train"]]
    path.write_text(json.dumps({"tasks": tasks, "examples": examples}), encoding="utf-8")
    units = dict.fromkeys(tasks, 0)
    for example in corpus.splits["train"]:
        for name, label in example.labels.items():
            units[name] += len(label) if isinstance(label, tuple) else 1
    return {"sentences": len(examples), **{f"{name} units": count for name, count in units.items()}}


def _run_palmette(config: Any, corpus: Corpus, gate: _Gate) -> None:
    """The trainer as it is, stopped and timed around updates."""
    from palmette import trainer

    class GatedLoop(trainer.Loop):
        """Training, a slice at a time."""

        def run(self, **options: Any) -> Any:
            gate.describe(batches=len(self._plan(0)))
            return super().run(**options)

        def _step(self, *arguments: Any, **options: Any) -> None:
            gate.before()
            units = self.units_done
            super()._step(*arguments, **options)
            gate.after(self.units_done - units)

    trainer.Loop = GatedLoop  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(config, Path(folder) / "run", corpus=corpus)


class _Caught(Exception):  # noqa: N818 - carries what was planned
    """The updates that Palmette planned."""


def _planned(config: Any, corpus: Corpus) -> tuple[list[Any], int]:
    """Palmette's own batches of the first epoch as tensors, and the width of its trunk."""
    from palmette import trainer
    from palmette.kinds.sequence_labeling import SequenceLabeling
    from palmette.model import to_tensors

    class Planner(trainer.Loop):
        """Plans, and trains nothing."""

        def run(self, **_: Any) -> Any:
            batches = []
            for step in self._plan(0):
                batch = self.learner.collate(step.rows)
                device = self.accelerator.device
                tasks = {
                    task: (
                        to_tensors({"index": part.index}, device)["index"],
                        to_tensors(part.targets, device)["target"],
                        part.units,
                        not isinstance(self.kinds[task], SequenceLabeling),
                    )
                    for task, part in batch.tasks.items()
                }
                batches.append((to_tensors(batch.inputs, device), tasks))
            learner: Any = self.learner
            raise _Caught(batches, learner.model.trunk.width)

    trainer.Loop = Planner  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer.train(config, Path(folder) / "run", corpus=corpus)
        except _Caught as caught:
            return caught.args
    raise RuntimeError("Palmette planned nothing")


def _run_bare(config: Any, corpus: Corpus, gate: _Gate, *, attention: str, seed: int) -> None:
    """What one would write by hand: nothing of Palmette's is in the loop."""
    import torch
    from torch import nn
    from transformers import BertModel

    from palmette.trunk import locate

    batches, width = _planned(config, corpus)
    sizes = {task: len(kind.labels) for task, kind in corpus.kinds.items()}
    torch.manual_seed(seed)
    encoder = BertModel.from_pretrained(
        locate(config.trunk.name), add_pooling_layer=False, attn_implementation=attention
    )
    heads = nn.ModuleDict({task: nn.Linear(width, labels) for task, labels in sizes.items()})
    dropout = nn.Dropout(config.training.dropout)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    encoder.train()
    gate.describe(batches=len(batches), attention=attention)
    while True:
        for inputs, tasks in batches:
            gate.before()
            mask = inputs["attention_mask"]
            hidden = encoder(
                input_ids=inputs["input_ids"], attention_mask=mask, token_type_ids=inputs["token_type_ids"]
            ).last_hidden_state
            total = torch.zeros(())
            for task, (index, target, units, pooled) in tasks.items():
                if pooled:
                    weights = mask[index].unsqueeze(-1).float()
                    chosen = (hidden[index] * weights).sum(1) / weights.sum(1)
                else:
                    chosen = hidden.flatten(0, 1)[index]
                loss = nn.functional.cross_entropy(heads[task](dropout(chosen)), target, reduction="sum")
                total = total + loss / units
            total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            gate.after(sum(units for _, _, units, _ in tasks.values()))


if __name__ == "__main__":
    main()
