"""Raw text to tags and entities: words a second and accuracy, beside spaCy's small pipeline and Flair.

The raw sentences of EWT's test part, given as they are: each system finds its own words. Palmette answers `pos` and
`ner` of a bundle (any further heads are not asked); spaCy runs the tagger and the entity recogniser of its small
English pipeline; Flair runs a MultitaskModel on Palmette's trunk (untrained heads: only its speed is measured). Each
runs in a process of its own, the systems alternate, medians over the rounds. spaCy is measured in one process, as it is
mostly run, and in two. Words are EWT's, whatever a system makes of them.

Tags and entities count where their characters are those of the annotation: F1 of (characters, tag), as in the CoNLL
2018 shared task, and of (characters, type). spaCy was trained on OntoNotes, where words and entities are cut otherwise,
so part of what it loses it loses to the guidelines: PERSON, ORG and GPE, LOC, FAC are read as PER, ORG and LOC, other
types are left out.

    python benchmarks/raw_text.py BUNDLE                        # 4 minutes on 2 cores, after the environments are made
    python benchmarks/raw_text.py BUNDLE --shallow BUNDLE       # another bundle beside it, with a trunk of 3 layers
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import common
from environments import PEERS, environment, trunk_folder

if TYPE_CHECKING:
    from palmette.types import Example

Places = set[tuple[int, int, int, str]]  # text, start, end, what

# Settings among which each peer's fastest is taken.
_SPACY = {
    name: [{"batch_size": size, "processes": processes} for size in (64, 256)]
    for name, processes in (("spacy", 1), ("spacy, 2 processes", 2))
}
_FLAIR = [{"batch_size": size} for size in (16, 32, 64)]


def main() -> None:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--shallow", type=Path, help="bundle of a model with fewer layers")
    parser.add_argument("--name", default="reference", help="what the bundles are called in the results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", nargs="+", default=[], choices=["spacy", "flair"], help="leave a peer out")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    if arguments.child:
        with common.only_errors_on_stdout() as answers:
            _child(answers)
        return
    if arguments.bundle is None:
        parser.error("which bundle?")
    examples = _gold()
    with tempfile.TemporaryDirectory() as folder, common.only_errors_on_stdout():
        texts = Path(folder) / "texts.json"
        texts.write_text(json.dumps([example.text.string for example in examples]), encoding="utf-8")
        systems, details = _measure(arguments, texts, examples)
    _report(arguments, systems, details, examples)


def _gold() -> list[Example]:
    """EWT's test sentences with both annotations, their words at their places in the raw text."""
    from palmette.config import Config
    from palmette.corpus import load_corpus

    config = Config.load(common.REFERENCE)
    examples = load_corpus(config).splits["test"]
    return [example for example in examples if {"pos", "ner"} <= example.labels.keys()]


def _measure(
    arguments: argparse.Namespace, texts: Path, examples: Sequence[Example]
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each round by system, and what else is known of each."""
    workers: dict[str, common.Worker] = {}
    details: dict[str, Any] = {}
    job = {"texts": str(texts), "threads": arguments.threads}
    own = [sys.executable, __file__, "--child"]
    try:
        for name, bundle in (("palmette", arguments.bundle), ("palmette, shallow", arguments.shallow)):
            if bundle is not None:
                _start(name, own, job | {"bundle": str(bundle)}, workers, details)
        if "spacy" not in arguments.without:
            command = [environment("spacy"), PEERS / "spacy_small.py"]
            for name, options in _SPACY.items():
                _start(name, command, job, workers, details, options)
        if "flair" not in arguments.without:
            python = environment("flair")
            labels = {task: sorted({tag for e in examples for tag in _tags(e, task)}) for task in ("pos", "ner")}
            types = ["O", *(f"{part}-{kind}" for kind in _kinds(labels["ner"]) for part in "SBEI")]
            job |= {"trunk": trunk_folder(python), "tags": labels["pos"], "types": types}
            _start("flair", [python, PEERS / "flair_tagger.py"], job, workers, details, _FLAIR)
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        names = list(workers)
        for number in range(arguments.rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                seconds[name].append(round(workers[name].ask({"answers": False})["seconds"], 4))
                common.log(f"round {number + 1}: {name}: {seconds[name][-1]:.2f} s")
        for name in names:
            if name != "flair":
                details[name] |= _scores(workers[name].ask({"answers": True})["found"], examples)
    finally:
        for worker in workers.values():
            worker.stop()
    return seconds, details


def _start(
    name: str,
    command: Sequence[str | Path],
    job: Mapping[str, Any],
    workers: dict[str, common.Worker],
    details: dict[str, Any],
    options: Sequence[Mapping[str, Any]] = ({},),
) -> None:
    """Start a system at the fastest of its settings, warm."""
    tried = []
    for option in options:
        worker = common.Worker(command, name=name)
        found = worker.ask({**job, **option})
        worker.ask({"answers": False})
        seconds = worker.ask({"answers": False})["seconds"] if len(options) > 1 else 0.0
        tried.append({**option, "seconds": round(seconds, 3)})
        common.log(f"{name} {tried[-1]}")
        if name in workers and seconds >= min(one["seconds"] for one in tried[:-1]):
            worker.stop()
            continue
        if name in workers:
            workers[name].stop()
        workers[name] = worker
        details[name] = {**found, "settings": dict(option)}
    details[name]["tried"] = tried


def _tags(example: Example, task: str) -> tuple[str, ...]:
    found: Any = example.labels[task]
    return tuple(found)


def _kinds(tags: Sequence[str]) -> list[str]:
    return sorted({tag[2:] for tag in tags if tag != "O"})


def _scores(found: Sequence[Mapping[str, Any]], examples: Sequence[Example]) -> dict[str, float]:
    """F1 of what a system found in characters."""
    from palmette.kinds.sequence_labeling import read_spans

    gold: dict[str, Places] = {"tags": set(), "entities": set()}
    for number, example in enumerate(examples):
        places = example.text.spans
        gold["tags"] |= {(number, *place, tag) for place, tag in zip(places, _tags(example, "pos"), strict=True)}
        gold["entities"] |= {
            (number, places[start][0], places[stop - 1][1], kind)
            for start, stop, kind in read_spans(_tags(example, "ner"), "iob2")
        }
    scores = {}
    for name, wanted in gold.items():
        answers: Places = {(number, *place) for number, one in enumerate(found) for place in map(tuple, one[name])}
        scores[f"{name} f1"] = round(2 * len(wanted & answers) / (len(wanted) + len(answers)), 4)
    return scores


def _report(
    arguments: argparse.Namespace,
    seconds: Mapping[str, Sequence[float]],
    details: Mapping[str, Any],
    examples: Sequence[Example],
) -> None:
    words = sum(len(example.text.words) for example in examples)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    headline: dict[str, float | str] = {}
    for name, median in medians.items():
        headline[f"{name} words/s"] = round(words / median)
        if "tags f1" in details[name]:
            headline[f"{name} tags F1"], headline[f"{name} entities F1"] = (
                details[name][key] for key in ("tags f1", "entities f1")
            )
    targets = {}
    bounds = {
        ("palmette", "spacy"): 1.0,
        ("palmette", "spacy, 2 processes"): 1.0,
        ("palmette, shallow", "spacy"): 2.0,
        ("palmette, shallow", "spacy, 2 processes"): 2.0,
        ("palmette", "flair"): 3.0,
    }
    for (name, peer), bound in bounds.items():
        if name in medians and peer in medians:
            ratio = round(medians[peer] / medians[name], 3)
            headline[f"{name} / {peer}"] = ratio
            targets[f"{name} / {peer}"] = common.Target(ratio, bound)
    if "spacy" in medians:
        for key in ("tags f1", "entities f1"):
            targets[f"palmette {key} over spaCy's"] = common.Target(details["palmette"][key], details["spacy"][key])
    common.report(
        "raw_text",
        f"{arguments.name}, {details['palmette']['precision']}, EWT test",
        arguments=arguments,
        headline=headline,
        targets=targets,
        details={"words": words, "texts": len(examples), "seconds": seconds, "systems": details},
    )


def _child(answers: IO[str]) -> None:
    import yaml

    from palmette.config import Config
    from palmette.deploy.bundle import CONFIG
    from palmette.runtime import Runtime

    job = json.loads(sys.stdin.readline())
    model = Runtime.load(job["bundle"], threads=job["threads"])
    texts = json.loads(Path(job["texts"]).read_text(encoding="utf-8"))
    layers = Config.parse(yaml.safe_load(model.bundle.read(CONFIG))).trunk.layers
    described = {"precision": model.bundle.manifest["precision"], "layers": layers, "bundle": model.bundle.digest}
    answers.write(json.dumps(described) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        found = [_plain(answer) for answer in model.stream(texts, tasks=["pos", "ner"])]
        answer: dict[str, Any] = {"seconds": time.perf_counter() - started}
        answers.write(json.dumps(answer | ({"found": found} if request["answers"] else {})) + "\n")


def _plain(answer: Mapping[str, Any]) -> dict[str, Any]:
    tags = answer["tasks"]["pos"]["tags"]
    return {
        "tags": [(*place, tag) for place, tag in zip(answer["offsets"], tags, strict=True)],
        "entities": [(span["start"], span["end"], span["label"]) for span in answer["tasks"]["ner"]["spans"]],
    }


if __name__ == "__main__":
    main()
