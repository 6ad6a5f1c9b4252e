"""A made-up study with everything that a report can show: four tasks, four regimes, a failed run, a failed trial."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

TASKS = {
    "pos": ("sequence_labeling", "accuracy", 12544),
    "ner": ("sequence_labeling", "span_f1", 12543),
    "sentiment": ("text_classification", "accuracy", 67349),
    "irony": ("text_classification", "macro_f1", 2862),
}
REGIMES = ("single_task", "multi_task", "frozen", "sequential")
SEEDS = (1, 2, 3, 4, 5)
MEANS = {  # regime -> score of each task
    "single_task": (0.9688, 0.7986, 0.9020, 0.6641),
    "multi_task": (0.9706, 0.8093, 0.8962, 0.6480),
    "frozen": (0.8815, 0.5521, 0.8012, 0.6105),
    "sequential": (0.9694, 0.8051, 0.9014, 0.6702),
}
SPREAD = (0.0006, 0.0080, 0.0050, 0.0140)
LAYERS = ["embeddings", *(f"layer.{n}" for n in range(6))]
ALL = "+".join(sorted(TASKS))
# The one run of the study that failed.
FAILED = ("sequential", "ner", 3)


def _models(regime: str) -> list[list[str]]:
    return [sorted(TASKS)] if regime in {"multi_task", "frozen"} else [[task] for task in TASKS]


def _scores(rng: np.random.Generator) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for place, task in enumerate(TASKS):
        scores[task] = {}
        for regime in REGIMES:
            drawn = MEANS[regime][place] + SPREAD[place] * rng.standard_normal(len(SEEDS))
            seeds = {
                str(seed): None if (regime, task, seed) == FAILED else round(float(value), 5)
                for seed, value in zip(SEEDS, drawn, strict=True)
            }
            known = [value for value in seeds.values() if value is not None]
            scores[task][regime] = {
                "seeds": seeds,
                "mean": float(np.mean(known)),
                "sd": float(np.std(known, ddof=1)),
                "dev": float(np.mean(known)) - 0.006,
                "gap": None if regime == "frozen" and task == "ner" else 0.02 + 0.01 * place,
            }
    return scores


def _difference(scores: dict[str, Any], task: str, regime: str) -> dict[str, Any]:
    place = list(TASKS).index(task)
    difference = scores[task][regime]["mean"] - scores[task]["single_task"]["mean"]
    half = 2.3 * SPREAD[place] * 0.9
    found = abs(difference) > half
    return {
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "p": 0.004 if found else 0.31,
        "p_holm": 0.0009 if found else 0.62,
        "effect": difference / SPREAD[place],
        "detectable": 1.3 * half,
        "verdict": ("helps" if difference > 0 else "hurts") if found else "no difference shown",
    }


def _regime(regime: str, rng: np.random.Generator) -> dict[str, Any]:
    trials, runs = [], []
    for tasks in _models(regime):
        model = "+".join(tasks)
        setting = "training.head_learning_rate" if regime == "frozen" else "training.learning_rate"
        for number in range(4):
            failed = regime == "single_task" and tasks == ["irony"] and number == 3
            dev = {task: round(MEANS[regime][list(TASKS).index(task)] - 0.004 * number, 4) for task in tasks}
            trials.append(
                {
                    "model": model,
                    "settings": {setting: round(float(10 ** rng.uniform(-4.6, -3.4)), 8)},
                    "score": None if failed else round(float(np.mean(list(dev.values()))), 4),
                    "dev": {} if failed else dev,
                    "state": "failed" if failed else "done",
                    "error": "loss is not finite at update 212 (learning rate 4.6e-04)" if failed else None,
                    "chosen": number == 0,
                }
            )
        for seed in SEEDS:
            failed = (regime, model, seed) == FAILED
            runs.append(
                {
                    "model": model,
                    "seed": seed,
                    "tasks": tasks,
                    "state": "failed" if failed else "done",
                    "error": "OSError: [Errno 28] No space left on device: 'model.safetensors'" if failed else None,
                    "key": f"{regime}-{model}-{seed}",
                }
            )
    descriptions = {
        "single_task": "Fine-tuning: a trunk and a head for each task.",
        "multi_task": "One trunk, all tasks, trained together.",
        "frozen": "Transfer learning by feature extraction: the trunk stays as it is, the heads learn.",
        "sequential": "Intermediate-task transfer: all tasks first, then each task alone from that trunk.",
    }
    return {
        "description": descriptions[regime],
        "models": _models(regime),
        "trials": trials,
        "runs": runs,
        "drawn": {task: 4 * size for task, (_, _, size) in TASKS.items()},
        "wordpieces": 3_900_000 if regime == "multi_task" else 4_400_000,
    }


def _transfer(rng: np.random.Generator) -> dict[str, Any]:
    names = sorted(TASKS)
    level = dict(zip(combinations(names, 2), (0.02, -0.05, 0.09, 0.12, -0.01, -0.04), strict=True))
    probes: list[dict[str, Any]] = []
    for seed in SEEDS:
        for number in range(8):
            share = (number + 1) / 8
            cosine: dict[str, dict[str, list[float]]] = {}
            for (first, second), mean in level.items():
                values = mean * (1.4 - share) + np.linspace(0.03, -0.03, len(LAYERS)) + 0.02 * rng.standard_normal(7)
                cosine.setdefault(first, {})[second] = [round(float(value), 4) for value in values]
            affinity = {
                a: {b: round(float(0.01 * rng.standard_normal() + 0.004), 5) for b in names if b != a} for a in names
            }
            probes.append(
                {"seed": seed, "update": 640 * (number + 1), "share": share, "cosine": cosine, "affinity": affinity}
            )
    mean_affinity = {
        a: {b: float(np.mean([p["affinity"][a][b] for p in probes])) for b in names if b != a} for a in names
    }
    pairs: dict[str, Any] = {}
    for a in names:
        for b in names:
            if a != b:
                difference = 0.1 * level[min(a, b), max(a, b)] + 0.002 * float(rng.standard_normal())
                pairs.setdefault(a, {})[b] = {
                    "difference": difference,
                    "low": difference - 0.005,
                    "high": difference + 0.005,
                    "p": 0.02 if abs(difference) > 0.005 else 0.4,
                }
    return {
        "layers": LAYERS,
        "probes": probes,
        "affinity": mean_affinity,
        "pairs": pairs,
        "grouped_by": "measured pairs",
        "grouping": [
            {"models": 1, "groups": [names], "expected": dict.fromkeys(names, 0.001)},
            {"models": 2, "groups": [["ner", "pos"], ["irony", "sentiment"]], "expected": dict.fromkeys(names, 0.004)},
            {
                "models": 3,
                "groups": [["ner", "pos"], ["sentiment"], ["irony"]],
                "expected": {"ner": 0.012, "pos": 0.001, "sentiment": 0.0, "irony": 0.0},
            },
        ],
        "rank_correlation": {"rho": 0.41, "p": 0.19, "pairs": 12},
    }


def _learning_curve(rng: np.random.Generator) -> dict[str, Any]:
    points = []
    for percent in (1, 4, 16, 64, 100):
        for regime, lift in (("single_task", 0.0), ("multi_task", 0.09), ("frozen", -0.05)):
            mean = 0.80 - 0.45 * np.exp(-0.55 * np.log1p(percent)) + lift * np.exp(-percent / 20)
            seeds = {
                str(seed): round(float(mean + 0.012 * rng.standard_normal() / np.sqrt(percent) ** 0.5), 4)
                for seed in SEEDS
            }
            values = list(seeds.values())
            train = min(0.999, float(np.mean(values)) + (0.25 - lift) / (1 + np.log1p(percent)))
            points.append(
                {
                    "percent": percent,
                    "regime": regime,
                    "mean": float(np.mean(values)),
                    "sd": float(np.std(values, ddof=1)),
                    "seeds": seeds,
                    "train": train,
                    "dev": float(np.mean(values)),
                    "gap": train - float(np.mean(values)),
                    "examples": max(1, round(12543 * percent / 100)),
                }
            )
    return {"task": "ner", "points": points}


def _recommendation() -> dict[str, Any]:
    def task(decision: str, reason: str, change: str | None, cost: str) -> dict[str, Any]:
        return {"decision": decision, "reason": reason, "change": change, "cost": cost}

    return {
        "overall": "split",
        "sentence": "Ship pos and ner on one trunk; give sentiment a trunk of its own and leave irony out until it "
        "has more data.",
        "tasks": {
            "pos": task("share", "Sharing helps by 0.18 points [+0.01, +0.39].", None, "no more than the shared model"),
            "ner": task(
                "share",
                "No difference shown; anything above 2.15 points would have been found, and the shared model is three "
                "times faster.",
                "heads",
                "+0.1 M parameters for a wider head",
            ),
            "sentiment": task(
                "split",
                "Sharing costs 0.58 points on test, and its gradients oppose those of pos in the last third of "
                "training.",
                "separate trunk",
                "+22.7 M parameters, +91 MB, +4.9 ms per text",
            ),
            "irony": task(
                "leave out",
                "Leaving irony out improves sentiment by 0.4 points, and no regime learns it reliably from 2,862 "
                "examples.",
                "sampling",
                "one task fewer to answer",
            ),
        },
    }


def example_study() -> dict[str, Any]:
    """A study.json, the same in every call."""
    rng = np.random.default_rng(7)
    scores = _scores(rng)
    names = sorted(TASKS)
    left_out = {
        a: {
            b: {
                "difference": 0.001 * (i - j),
                "low": 0.001 * (i - j) - 0.003,
                "high": 0.001 * (i - j) + 0.003,
                "p": 0.4,
            }
            for j, b in enumerate(names)
            if b != a
        }
        for i, a in enumerate(names)
    }
    return {
        "version": 2,
        "title": "Tags, entities, sentiment and irony on one trunk",
        "plan": {
            "regimes": list(REGIMES),
            "design": ["regimes", "pairs", "leave_one_out"],
            "seeds": list(SEEDS),
            "trials": 4,
            "search": {
                regime: {"training.head_learning_rate": {"low": 3e-4, "high": 1e-2, "log": True}}
                if regime == "frozen"
                else {"training.learning_rate": {"low": 2e-5, "high": 5e-4, "log": True}}
                for regime in REGIMES
            },
            "examples": 60000,
            "level": 0.95,
            "select": "mean_relative",
            "epochs": 4,
            "probes": 8,
            "baseline_regime": "single_task",
            "versions": {"palmette": "0.2.0", "torch": "2.13.0", "transformers": "5.23.0"},
            "commit": "db61518",
        },
        "tasks": {
            task: {
                "kind": kind,
                "metric": metric,
                "baseline": "single_task",
                "examples": {"train": size, "dev": 2001, "test": 2077},
            }
            for task, (kind, metric, size) in TASKS.items()
        },
        "regimes": {regime: _regime(regime, rng) for regime in REGIMES},
        "scores": scores,
        "differences": {task: {regime: _difference(scores, task, regime) for regime in REGIMES[1:]} for task in TASKS},
        "recommendation": _recommendation(),
        "transfer": _transfer(rng),
        "leave_one_out": left_out,
        "learning_curve": _learning_curve(rng),
        "alarms": [
            _alarm(2, "sentiment", "below_own_best", 3200, since=1920, opposed_by=["pos", "irony"]),
            _alarm(4, "irony", "below_baseline", 2560, since=2560),
            _alarm(4, "irony", "below_baseline", 4480, since=2560, over=True),
            _alarm(5, "ner", "below_baseline", 4480, since=2560, opposed_by=None),
        ],
    }


def _alarm(
    seed: int,
    task: str,
    kind: str,
    update: int,
    *,
    since: int,
    over: bool = False,
    opposed_by: Sequence[str] | None = (),
) -> dict[str, Any]:
    return {
        "regime": "multi_task",
        "model": ALL,
        "seed": seed,
        "task": task,
        "update": update,
        "epoch": 1 + update // 1300,
        "kind": kind,
        "over": over,
        "value": 0.602,
        "reference": 0.664,
        "since": since,
        "p": 0.0004,
        "opposed_by": None if opposed_by is None else list(opposed_by),
    }


def example_ledger() -> dict[str, Any]:
    """A ledger.json for `example_study`."""

    def entry(models: int, ms: float, peak: float, seconds: float, *, shared: bool) -> dict[str, Any]:
        trunk, heads = 22_713_216, {"pos": 6_545, "ner": 2_695, "sentiment": 148_226, "irony": 148_226}
        total = trunk * models + sum(heads.values())
        own = heads if shared else {task: trunk + head for task, head in heads.items()}
        return {
            "models": models,
            "parameters": {"total": total, "shared": trunk if shared else 0, "tasks": own, "trained": total},
            "bytes": 4 * total + 711_661 * models,
            "peak_rss_gb": peak,
            "seconds": seconds,
            "probe_seconds": 151.2 if shared else 0.0,
            "trial_seconds": 4 * seconds,
            "wordpieces": 3_900_000 if shared else 4_400_000,
            "ms_per_text": ms,
            "texts": 500,
            "one_by_one": True,
        }

    return {
        "hardware": [
            {
                "runs": 48,
                "cpu": "AMD EPYC",
                "cores": 2,
                "memory_gb": 23.5,
                "system": "Linux 6.1 x86_64",
                "python": "3.11.2",
                "torch": "2.13.0+cpu",
                "threads": 1,
            },
            {"runs": 1, "threads": 2},
        ],
        "regimes": {
            "single_task": entry(4, 19.8, 2.9, 5210.0, shared=False),
            "multi_task": entry(1, 5.2, 1.6, 3980.0, shared=True),
            "frozen": entry(1, 5.1, 1.1, 1420.0, shared=True),
            "sequential": entry(4, 19.9, 2.9, 5600.0, shared=False),
        },
        "started": "2026-11-22T22:10:00+00:00",
        "finished": "2026-11-23T09:42:00+00:00",
    }


def write_study(folder: Path, study: dict[str, Any] | None = None, ledger: dict[str, Any] | None = None) -> Path:
    """A study folder, ready for its report."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("study", study or example_study()), ("ledger", ledger or example_ledger())):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return folder
