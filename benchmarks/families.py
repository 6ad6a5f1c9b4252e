"""Three families of models on the same test examples: quality, unparseable share, time and memory, as one table.

python benchmarks/families.py --into docs/families.md      # everything; it goes on where it was interrupted
python benchmarks/families.py --families zero_shot         # a column; --seeds 1 makes the runs of a seed alone
python benchmarks/families.py --draw                       # the test examples anew, into benchmarks/families_ids.json

Every run and every cell is kept, each measured in a process of its own. The table shows the newest line that
benchmarks/results.jsonl has of each family, so that columns may be made one at a time, and on several machines. An
example's id is a digest of its text: the files hold no text, and data that has changed is noticed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from palmette.config import Config
    from palmette.corpus import Corpus
    from palmette.study.regimes import ModelPlan
    from palmette.types import Example

IDS = common.HERE / "families_ids.json"
CONFIG = common.REPOSITORY / "configs" / "families.yaml"
_SEED = 13  # of the draw
_TESTED = 300  # test examples of each task
_FAMILIES = ("multi_task", "single_task", "frozen", "zero_shot", "few_shot", "lora", "text2text")
# Most training examples of a task, for every family: columns differ by family and not by data. Passages and abstracts
# are ten times as long as sentences.
_MOST, _MOST_LONG = 1000, 500
_LONG = ("extractive_qa", "generation")
_SEEDS = (1, 2)  # where something is trained


def main() -> None:
    """Make what is missing of the table, and write it."""
    parser = common.parser(__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--ids", type=Path, default=IDS, help="the test examples of each task")
    parser.add_argument("--draw", action="store_true", help="draw these anew, and do nothing else")
    parser.add_argument("--families", nargs="+", choices=_FAMILIES, default=list(_FAMILIES))
    parser.add_argument("--seeds", nargs="+", type=int, choices=_SEEDS, default=list(_SEEDS), help="make these runs")
    parser.add_argument("--runs", type=Path, default=common.RUNS, help="where runs are kept")
    parser.add_argument("--into", type=Path, help="fill the block of this page with the table")
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    from palmette.config import Config
    from palmette.corpus import load_corpus

    config = Config.load(arguments.config, arguments.set)
    corpus = load_corpus(config, any_family=True)
    if arguments.draw:
        content = {"seed": _SEED, "ids": {task: draw(corpus, task) for task in config.tasks}}
        arguments.ids.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return
    ids = json.loads(arguments.ids.read_text(encoding="utf-8"))["ids"]
    for family in arguments.families:
        found = [
            cell for plan in plans(family, config, corpus) for cell in _cells(family, plan, ids, corpus, arguments)
        ]
        if set(arguments.seeds) != set(_SEEDS):
            continue  # a part of a column
        common.report(
            "families",
            family,
            arguments=arguments,
            headline={
                f"{task} {rows[0]['metric']}": cell_text(rows).replace("<br>", ", ")
                for task, rows in _by_task(found).items()
            },
            details={"cells": found},
        )
    metrics = {task: kind.metric for task, kind in corpus.kinds.items()}
    written = table(_reported(arguments), metrics)
    if arguments.into is None:
        common.log(written)
    else:
        common.fill(arguments.into, "families", written)


def _reported(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The cells of the newest line of each family."""
    found: dict[str, list[dict[str, Any]]] = {}
    if arguments.results.exists():
        for line in map(json.loads, arguments.results.read_text(encoding="utf-8").splitlines()):
            if (line["benchmark"], line["label"]) == ("families", arguments.label):
                found[line["configuration"]] = line["details"]["cells"]
    return [cell for family in _FAMILIES for cell in found.get(family, ())]


def identify(example: Example) -> str:
    """An example's id: a digest of what is read, so that it is the same in every format and tells nothing of it."""
    parts = [example.text.string, *([example.pair.string] if example.pair is not None else [])]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def draw(corpus: Corpus, task: str) -> list[str]:
    """Ids of a task's test examples: the first by a digest of seed and id, so that no order of files matters."""
    ids = {identify(example) for example in corpus.splits["test"] if task in example.labels}
    return sorted(ids, key=lambda one: hashlib.sha256(f"{_SEED} {one}".encode()).hexdigest())[:_TESTED]


def select(corpus: Corpus, task: str, ids: Sequence[str]) -> list[Example]:
    """The examples with these ids, labelled for the task alone; of equal ones the first."""
    found: dict[str, Example] = {}
    for example in corpus.splits["test"]:
        if task in example.labels:
            found.setdefault(identify(example), replace(example, labels={task: example.labels[task]}))
    missing = [one for one in ids if one not in found]
    if missing:
        raise SystemExit(f"{task}: {len(missing)} of {len(ids)} test examples are not in the data, e.g. {missing[0]}")
    return [found[one] for one in ids]


def plans(family: str, config: Config, corpus: Corpus) -> list[ModelPlan]:
    """The models of a family, as a study has them, on at most so many training examples of each task."""
    from palmette.mixing import Mixing, sampling_rates
    from palmette.study.plan import Plan
    from palmette.study.regimes import REGIMES, Setting, adjusted, epochs_alone

    epochs = epochs_alone(config, sampling_rates(Mixing.of(config, corpus.splits["train"])))
    labelled = corpus.reports["train"].labelled
    fractions = {
        f"tasks.{task}.train_fraction": declared.train_fraction
        * min(1.0, (_MOST_LONG if declared.kind in _LONG else _MOST) / labelled[task])
        for task, declared in config.tasks.items()
    }
    config = adjusted(config, fractions)
    plan = Plan.make(config, regimes=_FAMILIES, probes=0)
    return REGIMES[family](Setting(config, plan, epochs))


def _cells(
    family: str, plan: ModelPlan, ids: Mapping[str, list[str]], corpus: Corpus, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """What a model of a family did, for each of its tasks and seeds; made now unless it is there already."""
    from palmette.study.regimes import adjusted

    found = []
    for seed in arguments.seeds if plan.config.is_trained else _SEEDS[:1]:
        config = adjusted(plan.config, {"training.seed": seed})
        name = f"{family}-{plan.name}"
        folder = arguments.runs / common.run_folder("families", name, config).relative_to(common.RUNS)
        job = {
            "data": arguments.config.resolve().as_posix(),
            "overrides": arguments.set,
            "config": config.dump(),
            "folder": str(folder),
            "threads": arguments.threads,
        }
        trained = folder / "trained.json"
        if not trained.exists():
            common.log(f"{name}, seed {seed}: {'training' if config.is_trained else 'opening'} {folder}")
            _keep(trained, common.run_child(__file__, {**job, "what": "train"}))
        for task in plan.tasks:
            cell = folder / f"cell-{task}-{_digest(ids[task])}.json"
            if not cell.exists():
                common.log(f"{name}, seed {seed}: {task}, {len(ids[task])} examples")
                _keep(cell, common.run_child(__file__, {**job, "what": "measure", "task": task, "ids": ids[task]}))
            found.append(
                {
                    "family": family,
                    "task": task,
                    "seed": seed,
                    "metric": corpus.kinds[task].metric,
                    **json.loads(trained.read_text(encoding="utf-8")),
                    **json.loads(cell.read_text(encoding="utf-8")),
                }
            )
    return found


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:8]


def _keep(place: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is there whole or not at all."""
    partial = place.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(place)


# In processes of their own ------------------------------------------------------------------------------------------


def work(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train a run, or measure one on a task."""
    import torch
    import yaml

    from palmette.config import Config
    from palmette.corpus import load_corpus
    from palmette.study.regimes import adjusted

    torch.set_num_threads(job["threads"])
    config = Config.parse(yaml.safe_load(job["config"]))
    data = Config.load(job["data"], list(job["overrides"]))
    fractions = {f"tasks.{task}.train_fraction": declared.train_fraction for task, declared in config.tasks.items()}
    corpus = load_corpus(adjusted(data, fractions), any_family=True)
    if job["what"] == "train":
        return _train(config, corpus, Path(job["folder"]))
    return _measure(corpus, Path(job["folder"]), job["task"], job["ids"])


def _train(config: Config, corpus: Corpus, folder: Path) -> dict[str, Any]:
    from palmette import trainer
    from palmette.machine import peak_rss_gb
    from palmette.study.job import restrict

    started, continued = time.perf_counter(), folder.exists()
    own = restrict(corpus, config)
    trainer.train(config, folder, resume=True, corpus=own, splits=())  # measured below, on the chosen examples only
    return {
        "train_examples": {task: sum(task in e.labels for e in own.splits["train"]) for task in own.kinds},
        "train_seconds": None if continued or not config.is_trained else round(time.perf_counter() - started, 1),
        "train_rss_gb": round(peak_rss_gb(), 3) if config.is_trained else None,
        "commit": common.commit(),
    }


def _measure(corpus: Corpus, folder: Path, task: str, ids: Sequence[str]) -> dict[str, Any]:
    from palmette import evaluation
    from palmette.machine import peak_rss_gb
    from palmette.run import Run
    from palmette.writing.predictor import WritingPredictor

    run = Run.load(folder)
    examples = select(corpus, task, ids)
    run.predictor.answer_labelled(examples[:2])  # warm
    if isinstance(run.predictor, WritingPredictor):
        run.predictor.forget_usage()
    started = time.perf_counter()
    answers = run.predictor.answer_labelled(examples)
    seconds = time.perf_counter() - started
    kind = run.kinds[task]
    scores = evaluation.score(examples, answers, {task: kind})[task]
    usage = run.predictor.usage_json()[task] if isinstance(run.predictor, WritingPredictor) else {}
    return {
        "value": scores[kind.metric],
        "scores": scores,
        "examples": len(examples),
        "unparseable": usage["unparseable"] / len(examples) if usage else 0.0,
        "ms": 1000 * seconds / len(examples),
        "rss_gb": round(peak_rss_gb(), 3),
        "usage": usage,
    }


# The table ----------------------------------------------------------------------------------------------------------


def table(cells: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]) -> str:
    """Markdown: tasks down, families across; blank where a family cannot do a task, with the reason below."""
    names = [family.replace("_", "-") for family in _FAMILIES]
    rows = [f"| task | {' | '.join(names)} |", f"|---|{'---|' * len(_FAMILIES)}"]
    for task, metric in metrics.items():
        found = [[cell for cell in cells if cell["task"] == task and cell["family"] == family] for family in _FAMILIES]
        rows.append(f"| {task}, {metric} | {' | '.join(cell_text(each) if each else '' for each in found)} |")
    used = {
        task: max((cell["train_examples"].get(task, 0) for cell in cells if cell["family"] != "zero_shot"), default=0)
        for task in metrics
    }
    cut = ", ".join(f"{task} {count:,}" for task, count in used.items() if count)
    missing = [
        name for name, family in zip(names, _FAMILIES, strict=True) if family not in {c["family"] for c in cells}
    ]
    tested = sorted({cell["examples"] for cell in cells})
    notes = [
        "Each cell: the metric times 100 (of both seeds where something is trained), the share of answers that nobody",
        "can read, milliseconds a text, peak memory while answering.",
        f"Test examples of each task: {', '.join(map(str, tested))}.",
        *([f"Training examples: {cut}."] if cut else []),
        *([f"Not measured yet: {', '.join(missing)}."] if missing else []),
        "Blank: generation has no head, so that only models that write answer it.",
    ]
    return "\n".join([*rows, "", " ".join(notes)])


def cell_text(cells: Sequence[Mapping[str, Any]]) -> str:
    """A cell over its seeds."""
    values = " / ".join(f"{100 * cell['value']:.1f}" for cell in cells)
    unread = statistics.fmean(cell["unparseable"] for cell in cells)
    ms = statistics.fmean(cell["ms"] for cell in cells)
    memory = max(cell["rss_gb"] for cell in cells)
    shown = f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"
    return f"{values}<br>{100 * unread:.1f} % unparseable<br>{shown} ms, {memory:.1f} GB"


def _by_task(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        found.setdefault(str(cell["task"]), []).append(cell)
    return found


if __name__ == "__main__":
    if "--child" in sys.argv:
        with common.only_errors_on_stdout() as answers:
            answers.write(json.dumps(work(json.loads(sys.stdin.readline()))) + "\n")
    else:
        main()
