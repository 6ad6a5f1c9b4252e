"""Does `palmette diagnose` name a fault that was planted?

    python benchmarks/faults.py --seeds 1000-1059 --clean 2000-2019 --pairs 3000-3019

Each case is a small model of two tasks on real data (SST-2, TweetEval emotion, SNIPS intents, UNER entities), trained
with one of twelve kinds of fault at a random strength and place, or with two of them, or with none; then diagnosed.
The kind goes round with the seed. A case that is done is kept in runs/benchmarks/faults and not run again. Seeds below
1000 were used while the detectors were made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import common

Row = dict[str, Any]
Splits = dict[str, list[Row]]
SIZES = {"train": 900, "dev": 400, "test": 500}
POOLS = 2
COMPANION = {"train": 450, "dev": 100, "test": 100}
TAGGED = {"train": 600, "dev": 300, "test": 400}
FULLWIDTH = {code: code + 0xFEE0 for code in range(ord("a"), ord("z") + 1)}


@dataclass
class Plan:
    """A case in the making: what is written, trained and done to the model afterwards."""

    rng: np.random.Generator
    target: str
    splits: Splits
    companion: Splits
    settings: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    head_factor: float = 1.0
    bits: int | None = None
    about: list[str] = field(default_factory=list)


def read_table(name: str, split: str) -> list[Row]:
    """Rows of a TSV of two columns."""
    lines = (common.data_folder() / name / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    pairs = (line.rsplit("\t", 1) for line in lines)
    return [{"text": text.split(), "label": label} for text, label in pairs if text.strip()]


def read_snips(split: str) -> list[Row]:
    """Rows of SNIPS: words and intent."""
    lines = (common.data_folder() / "intent_snips" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [{"text": row["tokens"], "label": row["intent"]} for row in map(json.loads, lines)]


def read_tags(path: Path, *, word: int, tag: int) -> list[Row]:
    """Sentences of a file of columns."""
    rows: list[Row] = []
    words: list[str] = []
    tags: list[str] = []
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("# ") and not words:
            continue
        if not line.strip():
            if len(words) >= 4:
                rows.append({"text": words, "label": tags})
            words, tags = [], []
            continue
        columns = line.split("\t")
        words, tags = [*words, columns[word]], [*tags, columns[tag] if columns[tag].strip() else "O"]
    return rows


def read_ner(split: str) -> list[Row]:
    """UNER English sentences."""
    return read_tags(common.data_folder() / "uner_english_ewt" / f"en_ewt-ud-{split}.iob2", word=1, tag=2)


CORPORA: dict[str, Callable[[str], list[Row]]] = {
    "sst2": lambda split: read_table("sst2", split),
    "emotion": lambda split: read_table("tweeteval_emotion", split),
    "snips": read_snips,
    "ner": read_ner,
}


def sample(name: str, pool: int, rng: np.random.Generator, sizes: Mapping[str, int]) -> Splits:
    """A random part of each split of a corpus, with two columns that mean nothing.

    The publisher's splits may differ (tweets of other months): the three are drawn from all rows together, so that no
    shift is there that was not planted. Train and dev are one of a few draws (`pool`), so that kinds of fault which
    leave them as they are can share a trained model; test is drawn for each case.
    """
    everything = [row for split in SIZES for row in CORPORA[name](split)]
    shared = np.random.default_rng([pool, 77])
    order = shared.permutation(len(everything))
    start = sizes["train"] + sizes["dev"]
    places = {
        "train": order[: sizes["train"]],
        "dev": order[sizes["train"] : start],
        "test": rng.permutation(order[start:])[: sizes["test"]],
    }
    found = {}
    for split, chosen in places.items():
        drawn = rng if split == "test" else shared
        rows = [dict(everything[number]) for number in chosen]
        for row in rows:
            row["channel"] = str(drawn.choice(["app", "web", "phone", "mail"], p=[0.3, 0.3, 0.2, 0.2]))
            row["region"] = str(drawn.choice(["north", "south", "west"]))
        found[split] = rows
    return found


# --- the twelve kinds: each changes the plan -------------------------------------------------------------------------


def label_noise(plan: Plan) -> None:
    """Labels of train replaced at random."""
    share = plan.rng.uniform(0.2, 0.45)
    labels = _labels(plan.splits)
    for row in plan.splits["train"]:
        if isinstance(row["label"], list):
            row["label"] = _noisy_tags(plan, row["label"], share)
        elif plan.rng.random() < share:
            row["label"] = str(plan.rng.choice([label for label in labels if label != row["label"]]))
    plan.about.append(f"{share:.0%} of the labels of train at random")


def _noisy_tags(plan: Plan, tags: list[str], share: float) -> list[str]:
    """Entities of another type or none; as many false ones."""
    types = ["PER", "LOC", "ORG"]
    found = list(tags)
    for number, tag in enumerate(tags):
        if tag.startswith("B-") and plan.rng.random() < share:
            stop = number + 1
            while stop < len(tags) and tags[stop].startswith("I-"):
                stop += 1
            kind = str(plan.rng.choice([*types, "O"]))
            found[number:stop] = ["O" if kind == "O" else f"{'I' if n else 'B'}-{kind}" for n in range(stop - number)]
        elif tag == "O" and plan.rng.random() < 0.1 * share:
            found[number] = f"B-{plan.rng.choice(types)}"
    return found


def test_shift(plan: Plan) -> None:
    """Test from another domain, or train with other shares of labels."""
    if plan.target == "ner":
        tweets = [
            {**row, "channel": "app", "region": "north"}
            for row in read_tags(common.data_folder() / "btc" / "dev.conll", word=0, tag=1)
            if set(row["label"]) <= {f"{b}-{t}" for b in "BI" for t in ("PER", "LOC", "ORG")} | {"O"}
        ]
    else:
        names = {"negative": "0", "positive": "1"}
        tweets = [
            {**row, "label": names[row["label"]]}
            for row in read_table("tweeteval_sentiment", "dev")
            if row["label"] in names
        ]
    share = plan.rng.uniform(0.6, 1.0)
    test = plan.splits["test"]
    picked = plan.rng.permutation(len(tweets))[: round(share * len(test))]
    for number, row in zip(plan.rng.permutation(len(test)), picked, strict=False):
        test[number].update({key: tweets[row][key] for key in ("text", "label")})
    plan.about.append(f"{share:.0%} of test from tweets")


def label_set(plan: Plan) -> None:
    """A label that train hardly has, or one label split into two at random."""
    counts = Counter(row["label"] for row in plan.splits["test"])
    label = str(plan.rng.choice([name for name, count in counts.items() if count > 0.12 * len(plan.splits["test"])]))
    if plan.rng.random() < 0.5:
        kept = int(plan.rng.integers(3, 9))
        places = [n for n, row in enumerate(plan.splits["train"]) if row["label"] == label]
        gone = set(plan.rng.permutation(places)[kept:].tolist())
        plan.splits["train"] = [row for n, row in enumerate(plan.splits["train"]) if n not in gone]
        plan.about.append(f"{kept} examples of {label} left in train")
        return
    for rows in plan.splits.values():
        for row in rows:
            if row["label"] == label and plan.rng.random() < 0.5:
                row["label"] = f"{label}-bis"
    plan.about.append(f"{label} split into two at random")


def unseen_words(plan: Plan) -> None:
    """Words of test replaced by made-up ones, each always by the same."""
    share = plan.rng.uniform(0.35, 0.6)
    counts = Counter(w for row in plan.splits["test"] for w in row["text"] if w.isalpha() and len(w) > 3)
    syllables = ["bra", "vel", "tok", "min", "zu", "pler", "gan", "wix", "dro", "shu", "fen", "qua", "lor", "nib"]
    names: dict[str, str] = {}
    for word in counts:
        if plan.rng.random() < share:
            made = "".join(map(str, plan.rng.choice(syllables, size=int(plan.rng.integers(2, 4)))))
            names[word] = made.capitalize() if word[:1].isupper() else made
    for row in plan.splits["test"]:
        row["text"] = [names.get(word, word) for word in row["text"]]
    plan.about.append(f"{len(names)} words of test replaced by made-up ones")


def truncation(plan: Plan) -> None:
    """Texts of test cut after so many words."""
    median = float(np.median([len(row["text"]) for row in plan.splits["test"]]))
    longest = max(3, round(plan.rng.uniform(0.25, 0.5) * median))
    for row in plan.splits["test"]:
        row["text"] = row["text"][:longest]
    plan.about.append(f"texts of test cut after {longest} words")


def tokenisation(plan: Plan) -> None:
    """Words of test joined, in full-width letters, or (entities) without capitals."""
    if plan.target == "ner":
        for row in plan.splits["test"]:
            row["text"] = [word.lower() for word in row["text"]]
        plan.about.append("test without capitals")
        return
    share = plan.rng.uniform(0.5, 1.0)
    wide = plan.rng.random() < 0.5
    for row in plan.splits["test"]:
        if wide and plan.rng.random() < share:
            row["text"] = [w.lower().translate(FULLWIDTH) if plan.rng.random() < 0.6 else w for w in row["text"]]
        elif not wide:
            row["text"] = _joined(plan, row["text"], share)
    plan.about.append(f"{'full-width letters' if wide else 'words joined'} in test, share {share:.2f}")


def _joined(plan: Plan, words: Sequence[str], share: float) -> list[str]:
    found: list[str] = []
    for word in words:
        alone = not found or not (found[-1].isalpha() and word.isalpha()) or plan.rng.random() > share
        if alone or len(found[-1]) > 10:
            found.append(word)
        else:
            found[-1] += word
    return found


def weak_slice(plan: Plan) -> None:
    """Words of one channel's or region's texts garbled, in every split."""
    name = str(plan.rng.choice(["channel", "region"]))
    value = str(plan.rng.choice(sorted({row[name] for row in plan.splits["test"]})))
    share = plan.rng.uniform(0.6, 0.9)
    words = [word for row in plan.splits["train"] for word in row["text"]]
    for rows in plan.splits.values():
        for row in rows:
            if row[name] == value:
                row["text"] = [str(plan.rng.choice(words)) if plan.rng.random() < share else w for w in row["text"]]
    plan.about.append(f"{share:.0%} of the words where {name} = {value} replaced by others")


def little_data(plan: Plan) -> None:
    """Few training examples, and as many updates as with all."""
    count = int(plan.rng.integers(40, 130))
    plan.splits["train"] = plan.splits["train"][:count]
    plan.companion["train"] = plan.companion["train"][: 4 * count]
    plan.settings["epochs"] = 12
    plan.about.append(f"{count} training examples")


def under_training(plan: Plan) -> None:
    """Rates far too low, one epoch."""
    factor = float(np.exp(plan.rng.uniform(np.log(0.003), np.log(0.03))))
    plan.settings |= {"learning_rate": 2e-4 * factor, "head_learning_rate": 1e-3 * factor, "epochs": 1}
    plan.about.append(f"rates times {factor:.3f}, one epoch")


def negative_transfer(plan: Plan) -> None:
    """The other task's labels at random, and its loss far too heavy."""
    labels = _labels(plan.companion)
    for row in plan.companion["train"]:
        row["label"] = str(plan.rng.choice(labels))
    weight = float(plan.rng.uniform(20, 60))
    plan.weights = {"target": 0.5, "other": weight}
    plan.settings |= {"probes": 4, "learning_rate": 1e-3}
    plan.about.append(f"the other task has random labels and {2 * weight:.0f} times the weight")


def miscalibration(plan: Plan) -> None:
    """The head's weights scaled."""
    plan.head_factor = float(plan.rng.uniform(4, 8)) if plan.rng.random() < 0.6 else float(plan.rng.uniform(0.1, 0.25))
    plan.about.append(f"the head's outputs times {plan.head_factor:.2f}")


def quantisation(plan: Plan) -> None:
    """A bundle whose weights have too few bits."""
    plan.bits = int(plan.rng.integers(2, 4))
    plan.about.append(f"weights of {plan.bits} bits")


FAULTS: dict[str, tuple[Callable[[Plan], None], tuple[str, ...], tuple[str, ...]]] = {
    # name: (what plants it, causes that name it, corpora that it is planted in)
    "label noise": (label_noise, ("label noise",), ("sst2", "emotion", "snips", "ner")),
    "train-test shift": (test_shift, ("train-test shift",), ("sst2", "ner")),
    "rare or confusable": (label_set, ("rare label", "confusable labels"), ("emotion", "snips")),
    "unseen words": (unseen_words, ("unseen words",), ("sst2", "emotion", "snips")),
    "truncation": (truncation, ("truncation",), ("sst2", "emotion", "snips")),
    "tokenisation mismatch": (tokenisation, ("tokenisation mismatch",), ("sst2", "snips", "ner")),
    "weak slice": (weak_slice, ("weak slice",), ("sst2", "emotion", "snips")),
    "too little data": (little_data, ("too little data",), ("sst2", "emotion", "ner")),
    "under-training": (under_training, ("under-training",), ("sst2", "emotion", "snips", "ner")),
    "negative transfer": (negative_transfer, ("negative transfer",), ("sst2", "emotion", "snips")),
    "miscalibration": (miscalibration, ("miscalibration",), ("sst2", "emotion", "snips")),
    "quantisation loss": (quantisation, ("quantisation loss",), ("sst2", "emotion", "snips", "ner")),
}
_AFTER = ("miscalibration", "quantisation loss")  # done to the trained model


def _labels(splits: Splits) -> list[str]:
    tags = (row["label"] for row in splits["train"])
    return sorted({tag for label in tags for tag in (label if isinstance(label, list) else [label])})


def make(seed: int, names: Sequence[str], corpora: Sequence[str]) -> Plan:
    """The data and settings of a case."""
    rng = np.random.default_rng(seed)
    target = str(rng.choice(list(corpora)))
    pool = int(rng.integers(POOLS)) + 1000 * (seed < 1000)  # development has draws of its own
    companion = {"sst2": "emotion", "emotion": "snips", "snips": "sst2", "ner": "snips"}[target]
    sizes = TAGGED if target == "ner" else SIZES
    plan = Plan(rng, target, sample(target, pool, rng, sizes), sample(companion, pool, rng, COMPANION))
    for name in names:
        FAULTS[name][0](plan)
    return plan


def write_data(plan: Plan, folder: Path) -> list[Row]:
    """The data files, and the sources that name them."""
    folder.mkdir(parents=True)
    sources = []
    for task, splits in (("target", plan.splits), ("other", plan.companion)):
        files = {}
        for split, rows in splits.items():
            path = folder / f"{task}-{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            files[split] = str(path)
        sources.append({"format": "jsonl", "name": task, **files, "text": "text", "labels": {task: "label"}})
    return sources


def build(plan: Plan, folder: Path, models: Path, threads: int) -> tuple[Path, Path]:
    """Train the case's model, or take one trained alike. Returns what is diagnosed and its data's configuration."""
    import torch
    import yaml

    from palmette.config import Config
    from palmette.trainer import train

    torch.set_num_threads(threads)
    tagged = plan.target == "ner"
    kinds: dict[str, dict[str, Any]] = {
        "target": {"kind": "sequence_labeling", "scheme": "iob2"} if tagged else {"kind": "text_classification"},
        "other": {"kind": "text_classification"},
    }
    for task, weight in plan.weights.items():
        kinds[task]["weight"] = weight
    described = {
        "trunk": {"name": "all-minilm-l6-v2", "layers": 1},
        "tasks": kinds,
        "training": {
            "epochs": 8 if tagged else 6,
            "batch_tokens": 1024,
            "learning_rate": 2e-4,
            "precision": "fp32",
            "checkpoint_updates": 100000,
            **plan.settings,
        },
        "withhold_leaks": False,
    }
    seen = [plan.splits["train"], plan.splits["dev"], plan.companion["train"], plan.companion["dev"], described]
    key = hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]
    sources = write_data(plan, folder)
    config = folder / "tasks.yaml"
    config.write_text(yaml.safe_dump(described | {"sources": sources}, sort_keys=False), encoding="utf-8")
    trained = models / key
    if not (trained / "done").exists():
        shutil.rmtree(trained, ignore_errors=True)
        own = trained / "tasks.yaml"
        sources = write_data(plan, trained)
        own.write_text(yaml.safe_dump(described | {"sources": sources}, sort_keys=False), encoding="utf-8")
        train(Config.load(own), trained / "run", splits=("dev",))
        (trained / "done").touch()
    run = trained / "run"
    if plan.head_factor != 1.0:
        run = Path(shutil.copytree(run, folder / "run"))
        scale_head(run / "model.safetensors", plan.head_factor)
    if plan.bits is not None:
        return coarse_bundle(run, config, folder, plan.bits), config
    return run, config


def scale_head(path: Path, factor: float) -> None:
    """Multiply the outputs of the target's head."""
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    save_file({n: t * factor if n.startswith("heads.task_target.") else t for n, t in weights.items()}, path)


def coarse_bundle(run: Path, config: Path, folder: Path, bits: int) -> Path:
    """An int8 bundle whose weights have fewer bits, its parity measured again."""
    from datetime import UTC, datetime

    import onnx
    from onnx import numpy_helper

    from palmette.config import Config
    from palmette.corpus import load_corpus
    from palmette.deploy.bundle import PARITY, write_bundle
    from palmette.deploy.export import export
    from palmette.evaluation import score, summarise
    from palmette.runtime import Runtime

    export(run, folder / "int8", now=datetime.now(UTC), quantize="int8", accuracy_budget=100)
    runtime = Runtime.load(folder / "int8", threads=1)
    graph = onnx.load_from_string(runtime.bundle.read("model.onnx"))
    step = 2 ** (8 - bits)
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype in (np.int8, np.uint8) and values.size > 1000:
            middle = 128 if values.dtype == np.uint8 else 0
            rounded = np.round((values.astype(np.int32) - middle) / step) * step + middle
            limits = np.iinfo(values.dtype)
            coarse = np.clip(rounded, limits.min, limits.max).astype(values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(coarse, tensor.name))
    files = {name: runtime.bundle.read(name) for name in runtime.bundle.manifest["files"]}
    files["model.onnx"] = graph.SerializeToString()
    about = {k: v for k, v in runtime.bundle.manifest.items() if k not in ("format", "files")}
    write_bundle(folder / "coarse-unmeasured", files, about=about)
    coarse = Runtime.load(folder / "coarse-unmeasured", threads=1)
    dev = load_corpus(Config.load(config), fitted=coarse.kinds).splits["dev"]
    found = summarise(score(dev, coarse.predictor.answer_labelled(dev), coarse.kinds), coarse.kinds)
    parity = json.loads(files[PARITY])
    wanted = parity["int8"]["fp32"]
    parity["int8"]["points_lost"] = {task: round(100 * (wanted[task] - found[task]), 4) for task in wanted}
    files[PARITY] = json.dumps(parity).encode()
    write_bundle(folder / "bundle", files, about=about)
    return folder / "bundle"


def run_case(
    seed: int, names: Sequence[str], corpora: Sequence[str], cache: Path, arguments: argparse.Namespace
) -> Row:
    """Plant, train, diagnose; or read what was found before."""
    kept = cache / f"{seed}.json"
    if kept.exists() and not arguments.again:
        found: Row = json.loads(kept.read_text(encoding="utf-8"))
        return found
    from palmette.operate.diagnose.diagnose import diagnose

    started = time.perf_counter()
    folder = (arguments.work or cache) / f"work-{seed}"
    built = folder / "built.json"
    plan = make(seed, names, corpora)
    if built.exists():
        subject, data = map(Path, json.loads(built.read_text(encoding="utf-8")))
    else:
        shutil.rmtree(folder, ignore_errors=True)
        subject, data = build(plan, folder, (arguments.work or cache) / "models", arguments.threads)
        built.write_text(json.dumps([str(subject), str(data)]), encoding="utf-8")
    trained = time.perf_counter() - started
    diagnosis = diagnose(subject, tasks=["target"], data=data, seed=13).as_json()
    causes = {name: list(FAULTS[name][1]) for name in names}
    line = {
        "seed": seed,
        "planted": list(names),
        "about": plan.about,
        "corpus": plan.target,
        "causes": causes,
        "ranks": {name: rank_of(diagnosis["findings"], FAULTS[name][1]) for name in names},
        "high": [f["cause"] for f in diagnosis["findings"] if f["confidence"] == "high"],
        "score": diagnosis["tasks"]["target"]["score"],
        "found": [
            [
                f["cause"],
                f["confidence"],
                round(f["gain"]["points"], 2),
                round(f["gain"]["low"], 2),
                f["p_holm"],
                f["summary"],
            ]
            for f in diagnosis["findings"]
        ],
        "seconds": round(time.perf_counter() - started, 1),
        "trained": round(trained, 1),
        "diagnosed": diagnosis["seconds"],
    }
    if not arguments.keep:
        shutil.rmtree(folder)
    temporary = kept.with_suffix(".tmp")
    temporary.write_text(json.dumps(line, ensure_ascii=False), encoding="utf-8")
    temporary.replace(kept)
    return line


def rank_of(findings: Sequence[Mapping[str, Any]], causes: Sequence[str]) -> int | None:
    """At which place, from 1, the first finding of these causes stands; causes are counted, not lines."""
    order = list(dict.fromkeys(finding["cause"] for finding in findings))
    return next((place for place, cause in enumerate(order, 1) if cause in causes), None)


def seeds(text: str) -> list[int]:
    """`1000-1059` -> its numbers; nothing for an empty text."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1)) if text else []


def planned(arguments: argparse.Namespace) -> list[tuple[int, list[str], tuple[str, ...]]]:
    """All cases: seed, what is planted, in which corpora."""
    names = list(FAULTS)
    cases: list[tuple[int, list[str], tuple[str, ...]]] = []
    for seed in seeds(arguments.seeds):
        name = arguments.only or names[seed % len(names)]
        cases.append((seed, [name], FAULTS[name][2]))
    cases += [(seed, [], ("sst2", "emotion", "snips", "ner")) for seed in seeds(arguments.clean)]
    for seed in seeds(arguments.pairs):
        rng = np.random.default_rng([seed, 1])
        while True:
            chosen = sorted(map(str, rng.permutation(names)[:2]), key=lambda name: name in _AFTER)
            common_corpora = tuple(sorted(set(FAULTS[chosen[0]][2]) & set(FAULTS[chosen[1]][2])))
            if common_corpora:
                break
        cases.append((seed, chosen, common_corpora))
    return cases


def main() -> None:
    """Run what is not done yet, and report."""
    made = common.parser(__doc__)
    made.add_argument("--seeds", default="", help="single faults, e.g. 1000-1059")
    made.add_argument("--clean", default="", help="cases without a fault, e.g. 2000-2019")
    made.add_argument("--pairs", default="", help="cases with two faults, e.g. 3000-3019")
    made.add_argument("--only", choices=list(FAULTS), help="one kind of fault (development)")
    made.add_argument("--cache", type=Path, default=common.RUNS / "faults", help="where cases are kept")
    made.add_argument("--work", type=Path, help="folder for data and models while a case runs, e.g. in memory")
    made.add_argument("--keep", action="store_true", help="keep data and models")
    made.add_argument("--again", action="store_true", help="diagnose again what is kept (development)")
    made.add_argument("--report", action="store_true", help="append the figures of what is done to the results")
    arguments = made.parse_args()
    common.use_threads(arguments.threads)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    lines = []
    for seed, names, corpora in planned(arguments):
        if arguments.report and not (arguments.cache / f"{seed}.json").exists():
            continue
        line = run_case(seed, names, corpora, arguments.cache, arguments)
        lines.append(line)
        common.log(
            f"{seed} {'+'.join(names) or 'none'} [{line['corpus']}: {'; '.join(line['about'])}] {line['score']:.3f} "
            f"ranks {line['ranks']} {line['seconds']} s"
        )
        for found in line["found"][:5]:
            common.log(
                f"      {found[1]:8s} {found[2]:6.2f} ({found[3]:6.2f}) p {found[4]:.1g}  {found[0]}: {found[5][:110]}"
            )
    if arguments.report:
        summarise(lines, arguments)


def summarise(lines: Sequence[Row], arguments: argparse.Namespace) -> None:
    """The figures."""
    singles = [line for line in lines if len(line["planted"]) == 1]
    clean = [line for line in lines if not line["planted"]]
    pairs = [line for line in lines if len(line["planted"]) == 2]
    first = sum(rank == 1 for line in singles for rank in line["ranks"].values())
    third = sum(rank is not None and rank <= 3 for line in singles for rank in line["ranks"].values())
    claimed = sum(bool(line["high"]) for line in clean)
    both = sum(all(rank is not None and rank <= 3 for rank in line["ranks"].values()) for line in pairs)
    top = sum(any(rank == 1 for rank in line["ranks"].values()) for line in pairs)
    by_kind = {name: [line["ranks"][name] for line in singles if name in line["ranks"]] for name in FAULTS}
    headline = {
        "single": len(singles),
        "first": first,
        "first_three": third,
        "clean": len(clean),
        "clean_high": claimed,
        "pairs": len(pairs),
        "pairs_one_first": top,
        "pairs_both_in_three": both,
    }
    targets = {}
    if singles:
        targets["first"] = common.Target(first / len(singles), 0.8)
        targets["first_three"] = common.Target(third / len(singles), 0.95)
    if clean:
        targets["clean_high"] = common.Target(float(claimed), 0.0, at_most=True)
    details = {
        "ranks": by_kind,
        "pairs": [[line["planted"], line["ranks"]] for line in pairs],
        "high_without_fault": [[line["seed"], line["corpus"], line["high"]] for line in clean if line["high"]],
        "missed": [
            [line["seed"], line["planted"], line["about"], line["found"][:3]]
            for line in singles
            if next(iter(line["ranks"].values())) != 1
        ],
    }
    common.report("faults", "planted faults", arguments=arguments, headline=headline, targets=targets, details=details)


if __name__ == "__main__":
    main()
