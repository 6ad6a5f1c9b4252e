"""The model card: tasks, data and licences, scores with intervals, limits. Markdown, as model hubs read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import yaml

from palmette import __version__, evaluation, statistics
from palmette.config import Config
from palmette.corpus import Corpus, source_names
from palmette.kinds import AnyKind
from palmette.licences import UNSTATED, strictest
from palmette.types import Example, Prediction

_LEVEL = 0.95


def measure(
    examples: Sequence[Example], answers: Sequence[Mapping[str, Prediction]], kinds: Mapping[str, AnyKind]
) -> dict[str, dict[str, Any]]:
    """{task: {metric: value, …, "examples": n, "interval": [low, high]}}; the interval is of the task's own metric.

    A percentile bootstrap over examples: it says how sure the score is for texts like these, nothing about others.
    """
    scores: dict[str, dict[str, Any]] = {}
    for task, found in evaluation.score(examples, answers, kinds).items():
        kind = kinds[task]
        pairs = [(e.labels[task], a[task].label) for e, a in zip(examples, answers, strict=True) if task in e.labels]
        parts = kind.parts([gold for gold, _ in pairs], [predicted for _, predicted in pairs])
        drawn = statistics.resample(parts[None], metric=kind.combine, seed=13)
        low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        scores[task] = {**found, "interval": [round(float(low), 5), round(float(high), 5)]}
    return scores


def write(
    config: Config,
    kinds: Mapping[str, AnyKind],
    corpus: Corpus,
    measured: Mapping[str, Mapping[str, Mapping[str, Any]]],
    parity: Mapping[str, Any],
    calibrations: Mapping[str, Mapping[str, Any]],
    *,
    precision: str,
    now: datetime,
) -> str:
    """The card of a bundle.

    Args:
        config: of the run.
        kinds: its tasks.
        corpus: its data.
        measured: {split: what `measure` found}, by the graph that is shipped.
        parity: what export compared.
        calibrations: what export measured of each task's confidences.
        precision: of the graph: fp32 or int8.
        now: the date it bears.
    """
    licence = strictest(source.license for source in config.sources)
    languages = sorted({config.language, *(s.language for s in config.sources if s.language)})
    front = {"language": languages, "license": licence, "library_name": "palmette", "tags": sorted(kinds)}
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {', '.join(kinds)}: one trunk, {len(kinds)} {'head' if len(kinds) == 1 else 'heads'}",
        "",
        f"Made by Palmette {__version__} on {now:%Y-%m-%d} from {_trunk(config)}; an ONNX graph, {precision}.",
        "",
        "## Tasks",
        "",
        "| task | kind | answers |",
        "|---|---|---|",
        *(f"| {task} | {kind.config.kind} | {_answers(kind)} |" for task, kind in kinds.items()),
        "",
        "## Scores",
        "",
        f"By the graph in this folder. In brackets the {_LEVEL:.0%} interval of a bootstrap over examples.",
        "It holds for texts like those of the corpus, not for others.",
        "",
        *_scores(kinds, measured),
        "",
        *_parity(parity, precision),
        "",
        "## Confidence",
        "",
        *_confidence(calibrations),
        "",
        "## Data",
        "",
        f"The strictest licence among the sources: **{licence}**. The duties of the others hold beside it.",
        "",
        "| source | licence | tasks |",
        "|---|---|---|",
        *(
            f"| {name} | {source.license or UNSTATED} | {', '.join(source.labels)} |"
            for name, source in zip(source_names(config.sources), config.sources, strict=True)
        ),
        "",
        "Training examples: "
        + ", ".join(f"{task} {number:,}" for task, number in corpus.reports["train"].labelled.items())
        + ".",
        "",
        "## Limits",
        "",
        *_limits(config, kinds, corpus),
        "",
    ]
    return "\n".join(lines)


def _trunk(config: Config) -> str:
    layers = f" (its first {config.trunk.layers} layers)" if config.trunk.layers else ""
    return f"the trunk `{config.trunk.name.rsplit('/', 1)[-1]}`{layers}"


def _answers(kind: AnyKind) -> str:
    labels = kind.labels
    if not labels:
        return "a number" if kind.config.kind == "regression" else "see the kind"
    if kind.config.scheme is not None:
        labels = tuple(dict.fromkeys(label[2:] for label in labels if label != "O"))
        return f"spans of {len(labels)} types: {_listed(labels)}"
    return f"{len(labels)} labels: {_listed(labels)}"


def _listed(labels: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(label.replace("|", "\\|") for label in labels[:most])
    return shown + (f", … ({len(labels) - most} more)" if len(labels) > most else "")


def _scores(kinds: Mapping[str, AnyKind], measured: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    splits = list(measured)
    rows = []
    for task, kind in kinds.items():
        cells = []
        for split in splits:
            found = measured[split].get(task)
            if found is None:
                cells.append("-")
                continue
            low, high = found["interval"]
            cells.append(f"{found[kind.metric]:.4f} [{low:.4f}, {high:.4f}], {found['examples']:,} examples")
        rows.append(f"| {task} | {kind.metric} | " + " | ".join(cells) + " |")
    return [f"| task | metric | {' | '.join(splits)} |", "|---" * (2 + len(splits)) + "|", *rows]


def _parity(parity: Mapping[str, Any], precision: str) -> list[str]:
    worst = max(parity["fp32"]["largest_difference"].values(), default=0.0)
    compared = parity["fp32"]["examples"]
    lines = [f"The fp32 graph's scores differ from the run's by {worst:.1e} at most, on {compared:,} examples."]
    if precision == "int8":
        found = parity["int8"]
        lost = ", ".join(f"{task} {0.0 - points:+.2f}" for task, points in found["points_lost"].items())
        kept = ", ".join(found["fp32_parts"]) or "none"
        lines.append(
            f"int8 against fp32 on dev, in points: {lost} (budget {found['accuracy_budget']:g}). "
            f"Parts left in fp32: {kept}. "
            "Activations are quantised by the range of their batch, so an answer's confidence may depend, in its last "
            "digits, on the texts it is computed with."
        )
    return lines


def _confidence(calibrations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not calibrations:
        return ["No task has labelled dev data and confidences: what answers say of themselves was not checked."]
    lines = [
        "Fitted on dev, measured on test, before -> after: expected calibration error (0: a confidence of 0.9 is right",
        "nine times in ten), Brier score, and area under the risk-coverage curve (the mean error where only the surest",
        "answers count). It holds for texts like these. `calibration.json` has the numbers of the diagrams.",
        "",
        "| task | by | claims | ECE | Brier | AURC |",
        "|---|---|---|---|---|---|",
    ]
    for task, found in calibrations.items():
        by = f"temperature {found['temperature']:.2f}" if found["method"] == "temperature" else found["method"]
        before, after = found.get("test, before"), found.get("test, after")
        if before is None or after is None:
            own = found["dev, held out"]
            cells = [f"{own['claims']:,} (dev)", *(f"{own[name]:.4f}" for name in ("ece", "brier", "aurc"))]
        else:
            cells = [f"{after['claims']:,}"]
            cells += [f"{before[name]:.4f} -> {after[name]:.4f}" for name in ("ece", "brier", "aurc")]
        lines.append(f"| {task} | {by} | " + " | ".join(cells) + " |")
    return [*lines, "", "![Share right by confidence, and share wrong by share answered](calibration.svg)"]


def _limits(config: Config, kinds: Mapping[str, AnyKind], corpus: Corpus) -> list[str]:
    lines = [
        f"- Raw text is cut into words by the rules of `{config.language}`.",
    ]
    for task in kinds:
        unseen = corpus.reports["test"].unseen.get(task)
        if unseen:
            lines.append(
                f"- {task}: {len(unseen)} labels of the test data never occur in training and cannot be predicted: "
                f"{_listed(sorted(unseen))}."
            )
    return lines
