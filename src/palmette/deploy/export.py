"""A run -> a bundle, checked on real data: the graph against the run, and int8 against a budget of accuracy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from palmette import __version__, calibration, evaluation
from palmette.batching import EMBEDDING, Batch
from palmette.checkpoint import RunFolder
from palmette.confidence import Calibration
from palmette.config import Config
from palmette.corpus import Corpus, load_corpus
from palmette.deploy import bundle, card, reliability
from palmette.deploy.bundle import Bundle
from palmette.deploy.graph import Graph, quantise, trace
from palmette.deploy.outliers import ranges, tamed
from palmette.errors import BundleError
from palmette.kinds import AnyKind
from palmette.model import torch_engine
from palmette.operate.watch.profile import make_profile, to_json
from palmette.predictor import Engine, Predictor
from palmette.run import Run
from palmette.runtime import check_graph, onnx_engine, open_session
from palmette.types import SPLITS, Example, Split
from palmette.words import WordRules

TOLERANCE = 1e-4  # largest difference between a score of the graph and of the run
_COMPARED = 500  # examples of each task that scores are compared on
_PROBED = 100  # examples of each task that outliers are looked for in, and that the parts' errors are ranked on
_FEWEST = 20  # examples below which a loss of accuracy means little

Say = Callable[[str], None]
Scores = dict[str, float]


def export(
    path: str | Path,
    out: str | Path,
    *,
    now: datetime,
    quantize: str | None = None,
    accuracy_budget: float = 0.5,
    corpus: Corpus | None = None,
    say: Say = lambda _: None,
) -> Bundle:
    """Write the bundle of a finished run.

    Scores of the graph are compared with the run's, computed in fp32, on dev. With int8, every task's metric on dev may
    fall by `accuracy_budget` points at most; parts of the graph go back to fp32, those that err most first, until it
    does. Test is read once, by the graph that is shipped, for the card.

    Args:
        path: the run.
        out: the folder to write; must not exist.
        now: when this happens.
        quantize: "int8", or None for fp32.
        accuracy_budget: points (hundredths of the metric) that a task may lose on dev by int8.
        corpus: the run's data, if they are read already.
        say: told what happens.

    Raises:
        BundleError: the folder exists, the model writes its answers, the graph does not answer as the run does, or int8
            costs too much.
        RunError, ReadError: the run is not finished, or its data cannot be read.
        MissingExtraError: the exporter is not installed.
    """
    out = Path(out)
    if out.exists():
        raise BundleError(f"{out}: exists; give --out another name, so that what serves from it is not changed")
    run = Run.load(path)
    if not isinstance(run.predictor, Predictor):
        raise BundleError(
            f"{path}: no bundle can be written: its model writes its answers, and bundles hold heads; serve the run "
            f"itself: palmette serve {path}, or beside a bundle: palmette serve BUNDLE --writer {path}"
        )
    model, own = run.heads("export")
    corpus = corpus or load_corpus(run.config, fitted=run.kinds)
    examples, splits = _checked(corpus, run.kinds)
    say("tracing the graph")
    graph = trace(model.cpu(), list(run.kinds))
    parity: dict[str, Any] = {"splits": splits, "fp32": _compare(run, graph, examples, say)}
    content, precision = graph.content, "fp32"
    if quantize is not None:
        seen = _some(corpus.splits["train"], run.kinds, _PROBED)
        say(f"making outliers fit for 8 bits, by {len(seen)} training examples")
        fit = tamed(graph, ranges(graph, lambda engine: _answers(run, engine, seen)))
        content, precision = _quantised(run, graph, fit, examples, accuracy_budget, parity, say), "int8"
    engine = _engine(content, run.kinds)
    say("calibrating confidences on dev")
    kinds, calibrations, claims = _calibrated(run, engine, corpus)
    measured = {
        split: card.measure(corpus.splits[split], _answers(run, engine, corpus.splits[split]), run.kinds)
        for split in ("dev", "test")
        if corpus.splits[split]
    }
    parity["scores"] = measured
    say("describing dev, for watching")
    profile = make_profile(_predictor(run, engine, kinds), corpus.splits["dev"])
    files = {
        bundle.GRAPH: content,
        bundle.TOKENIZER: own.encoder.tokenizer.to_str().encode(),
        bundle.WORDS: _json(WordRules.of_language(run.config.language).as_json()),
        bundle.TASKS: _json(_tasks(kinds, own)),
        bundle.CONFIG: _described(run.config).encode(),
        bundle.PARITY: _json(parity),
        bundle.CALIBRATION: _json(calibrations),
        bundle.CLAIMS: claims,
        bundle.DIAGRAM: reliability.draw(calibrations).encode(),
        bundle.CARD: card.write(
            run.config, run.kinds, corpus, measured, parity, calibrations, precision=precision, now=now
        ).encode(),
        bundle.PROFILE: (json.dumps(to_json(profile), ensure_ascii=False) + "\n").encode(),
    }
    about = {
        "palmette": __version__,
        "created": now.isoformat(timespec="seconds"),
        "precision": precision,
        "tasks": {task: kind.config.kind for task, kind in run.kinds.items()},
        "run": {"weights": _digest(RunFolder(Path(path)).weights)},
    }
    return bundle.write_bundle(out, files, about=about)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _calibrated(
    run: Run, engine: Engine, corpus: Corpus
) -> tuple[dict[str, AnyKind], dict[str, dict[str, Any]], bytes]:
    """The tasks with confidences that mean what they say, how well they do, and the claims on dev."""
    predictor = _predictor(run, engine)
    dev = calibration.collect(predictor, corpus.splits["dev"])
    fits = {task: calibration.fit(claims) for task, claims in dev.items()}
    # Decoding at each temperature is most of the work; of test only those are looked at that were chosen.
    temperatures = sorted({1.0, *(fitted.calibration.temperature for fitted in fits.values())})
    test = calibration.collect(predictor, corpus.splits["test"], temperatures=temperatures)
    kinds = dict(run.kinds)
    reports: dict[str, dict[str, Any]] = {}
    for task, fitted in fits.items():
        kinds[task] = calibration.calibrated(run.kinds[task], fitted.calibration)
        reports[task] = {
            **fitted.calibration.state(),
            "cross_validated_brier": fitted.brier,
            "dev, held out": calibration.measure(fitted.held_out, dev[task].right),
        }
        if task in test:
            for name, by in (("before", Calibration()), ("after", fitted.calibration)):
                sure = by.means(test[task].confidence[temperatures.index(by.temperature)])
                reports[task][f"test, {name}"] = calibration.measure(sure, test[task].right)
    kept = {task: (claims, fits[task].held_out) for task, claims in dev.items()}
    return kinds, reports, calibration.pack(kept)


def _tasks(kinds: Mapping[str, AnyKind], own: Predictor) -> dict[str, Any]:
    """What the runtime needs besides graph and tokenizer: label maps, thresholds, scales."""
    return {
        "max_length": own.encoder.max_length,
        "pad": own.pad,
        "tasks": {
            task: {"config": kind.config.model_dump(mode="json", exclude_defaults=True), "state": kind.state}
            for task, kind in kinds.items()
        },
    }


def _described(config: Config) -> str:
    """The configuration as YAML, with the names of files only: where they lay is nobody's business."""
    found = config.model_dump(mode="json", exclude_defaults=True)
    if "trunk" in found:
        found["trunk"] = {**found["trunk"], "name": Path(config.trunk.name).name}
    for source in found["sources"]:
        for key in [*SPLITS, "path"]:
            value = source.get(key)
            if isinstance(value, list):
                source[key] = [Path(name).name for name in value]
            elif isinstance(value, str) and (key != "path" or Path(value).is_absolute()):
                source[key] = Path(value).name
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True)


def _checked(corpus: Corpus, kinds: Mapping[str, AnyKind]) -> tuple[list[Example], dict[str, Split]]:
    """The examples that a task is checked on: dev; where a task has none, test; where it has none either, train."""
    splits: dict[str, Split] = {}
    for task in kinds:
        counts = {split: sum(task in example.labels for example in corpus.splits[split]) for split in SPLITS}
        splits[task] = next(
            (split for split in ("dev", "test", "train") if counts[split] >= _FEWEST),
            max(counts, key=lambda s: counts[s]),
        )
    return [
        _only(example, tasks)
        for split in dict.fromkeys(splits.values())
        for example in corpus.splits[split]
        if (tasks := [task for task in example.labels if splits[task] == split])
    ], splits


def _only(example: Example, tasks: Sequence[str]) -> Example:
    return replace(example, labels={task: example.labels[task] for task in tasks})


def _some(examples: Sequence[Example], kinds: Mapping[str, AnyKind], most: int) -> list[Example]:
    """Examples, spread evenly, so that each task has at most about so many."""
    kept: dict[int, Example] = {}
    for task in kinds:
        labelled = [number for number, example in enumerate(examples) if task in example.labels]
        for number in labelled[:: -(-len(labelled) // most) or 1]:
            kept[number] = examples[number]
    return [kept[number] for number in sorted(kept)]


def _engine(content: bytes, kinds: Mapping[str, AnyKind]) -> Engine:
    session = open_session(content, threads=None, where=bundle.GRAPH)
    check_graph(session, kinds, where=bundle.GRAPH)
    return onnx_engine(session)


def _predictor(run: Run, engine: Engine, kinds: Mapping[str, AnyKind] | None = None) -> Predictor:
    """The run's answers by an engine; with other kinds, if they are given (calibrated ones)."""
    _, own = run.heads("export")
    return Predictor(kinds or run.kinds, own.encoder, engine, pad=own.pad, find_words=own.find_words)


def _answers(run: Run, engine: Engine, examples: Sequence[Example]) -> Any:
    return _predictor(run, engine).answer_labelled(examples)


def _compare(run: Run, graph: Graph, examples: Sequence[Example], say: Say) -> dict[str, Any]:
    """The largest difference between the graph's scores and the run's, of each task."""
    own, other = torch_engine(run.heads("export")[0], torch.device("cpu"), "fp32"), _engine(graph.content, run.kinds)
    some = _some(examples, run.kinds, _COMPARED)
    say(f"comparing the graph's scores with the run's on {len(some)} examples")
    gaps = _gaps(run, own, other, some, embed=True)
    embedding = gaps.pop(EMBEDDING, 0.0)
    if not embedding <= TOLERANCE:
        raise BundleError(f"an embedding of the ONNX graph differs by {embedding:.2g} from the run's: see the trunk")
    for task, gap in gaps.items():
        if not gap <= TOLERANCE:
            raise BundleError(
                f"task {task}: a score of the ONNX graph differs by {gap:.2g} from the run's, more than {TOLERANCE:g}: "
                "the trunk or the head computes something that the exporter does not translate faithfully"
            )
    return {"examples": len(some), "largest_difference": gaps, "embedding": embedding}


def _gaps(
    run: Run,
    one: Engine,
    two: Engine,
    examples: Sequence[Example],
    gap: Callable[[NDArray[Any]], float] = lambda found: float(found.max(initial=0.0)),
    *,
    embed: bool = False,
) -> dict[str, float]:
    """How far two engines' scores are apart over the examples that are labelled for a task."""
    gaps: dict[str, list[float]] = {task: [] for task in (*run.kinds, EMBEDDING)}

    def both(batch: Batch) -> Mapping[str, NDArray[Any]]:
        asked = replace(batch, embed=embed)
        first, second = one(asked), two(asked)
        for task, found in first.items():
            gaps[task].append(gap(np.abs(found - second[task])))
        return second

    _answers(run, both, examples)
    return {task: max(found) for task, found in gaps.items() if found}


def _metrics(run: Run, content: bytes, examples: Sequence[Example]) -> Scores:
    found = evaluation.score(examples, _answers(run, _engine(content, run.kinds), examples), run.kinds)
    return evaluation.summarise(found, run.kinds)


def _quantised(
    run: Run, plain: Graph, graph: Graph, examples: Sequence[Example], budget: float, parity: dict[str, Any], say: Say
) -> bytes:
    """The int8 form of a graph that keeps every task within the budget, with as few parts in fp32 as that takes."""
    say(f"scoring fp32 on the {len(examples)} examples that int8 is checked on")
    wanted = _metrics(run, plain.content, examples)
    kept: list[str] = []
    ranked: list[str] | None = None
    while True:
        content = quantise(graph, [part for part in graph.parts if part not in kept])
        found = _metrics(run, content, examples)
        losses = {task: round(100 * (wanted[task] - found[task]), 4) + 0.0 for task in wanted}
        worst = max(losses, key=lambda task: losses[task])
        shown = ", ".join(f"{task} {0.0 - loss:+.2f}" for task, loss in losses.items())
        say("int8" + (f", {' and '.join(kept)} in fp32" if kept else "") + f": {shown} points")
        if losses[worst] <= budget:
            parity["int8"] = {"accuracy_budget": budget, "points_lost": losses, "fp32_parts": kept, "fp32": wanted}
            return content
        if len(kept) + 1 >= len(graph.parts):
            raise BundleError(
                f"task {worst}: int8 loses {losses[worst]:.2f} points of {run.kinds[worst].metric} on "
                f"{parity['splits'][worst]}, more than --accuracy-budget {budget:g}, even with {', '.join(kept)} "
                "in fp32: raise the budget or export without --quantize"
            )
        ranked = ranked or _ranked(run, graph, examples, say)
        kept.append(next(part for part in ranked if part not in kept))


def _ranked(run: Run, graph: Graph, examples: Sequence[Example], say: Say) -> list[str]:
    """The graph's parts by how far int8 in that part alone moves the scores of the task it moves most."""
    some = _some(examples, run.kinds, _PROBED)
    say(f"too much; ranking {len(graph.parts)} parts of the graph by their error on {len(some)} examples")
    plain = _engine(graph.content, run.kinds)
    errors = {}
    for part in graph.parts:
        gaps = _gaps(run, plain, _engine(quantise(graph, [part]), run.kinds), some, lambda gap: float(gap.mean()))
        errors[part] = max(gaps.values())
    return sorted(graph.parts, key=lambda part: -errors[part])
