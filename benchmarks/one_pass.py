"""What heads cost that share a pass: five tasks over the same texts against one, and one bundle against five.

Five tasks over the embedded sample's sentences (tags, entities, sentiment, genre, the set of entity types) are trained
together and each alone, for one epoch: speed and size do not depend on how well. Raw text in, rendered answers out; the
systems alternate, medians over the rounds.

    python benchmarks/one_pass.py            # about 5 minutes on 2 cores
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from palmette.config import Config
    from palmette.runtime import Runtime

TASKS: dict[str, tuple[dict[str, Any], Any]] = {
    "pos": ({"kind": "sequence_labeling"}, "upos"),
    "ner": ({"kind": "sequence_labeling", "scheme": "iob2"}, "misc.NER"),
    "sentiment": ({"kind": "text_classification"}, "comment.sentiment"),
    "genre": ({"kind": "text_classification"}, "comment.genre"),
    "types": ({"kind": "multilabel_classification"}, {"column": "misc.NER", "span_types": True}),
}


def main() -> None:
    """Make the bundles, measure, report."""
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--texts", type=int, default=400, help="of the sample")
    parser.add_argument("--quantize", choices=["int8"], help="measure int8 bundles")
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    from palmette.runtime import Runtime

    def loaded(tasks: list[str]) -> Runtime:
        return Runtime.load(bundle(tasks, quantize=arguments.quantize), threads=arguments.threads)

    together = loaded(list(TASKS))
    alone = {task: loaded([task]) for task in TASKS}
    texts = sample_texts(arguments.texts)
    seconds = _measure(together, alone, texts, arguments.rounds)
    five, one, apart = (statistics.median(seconds[name]) for name in ("five tasks", "one task", "five bundles"))
    sizes = {"one bundle": together.bundle.bytes, "five bundles": sum(m.bundle.bytes for m in alone.values())}
    values = {
        "five tasks / one task, seconds": common.Target(round(five / one, 3), 1.10, at_most=True),
        "five bundles / one bundle, seconds": common.Target(round(apart / five, 2), 4.5),
        "one bundle / five bundles, bytes": common.Target(
            round(sizes["one bundle"] / sizes["five bundles"], 4), 0.23, at_most=True
        ),
    }
    common.report(
        "one_pass",
        f"five tasks, {together.bundle.manifest['precision']}",
        arguments=arguments,
        headline={
            **{name: target.value for name, target in values.items()},
            "texts/s, five tasks": round(len(texts) / five, 1),
        },
        targets=values,
        details={"seconds": seconds, "bytes": sizes, "texts": len(texts)},
    )


def _measure(together: Runtime, alone: Mapping[str, Runtime], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, by system."""
    first = next(iter(alone.values()))
    systems: dict[str, Callable[[], Any]] = {
        "five tasks": lambda: together.predict(texts),
        "one task": lambda: first.predict(texts),
        "five bundles": lambda: [model.predict(texts) for model in alone.values()],
    }
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(rounds + 1):
        for name, run in systems.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms
                seconds[name].append(round(time.perf_counter() - started, 4))
    return seconds


def sample_texts(count: int) -> list[str]:
    """The first raw sentences of the embedded sample."""
    sample = common.REPOSITORY / "src" / "palmette" / "data" / "sample"
    lines = [
        line
        for name in ("train", "dev", "test")
        for line in (sample / f"{name}.conllu").read_text("utf-8").splitlines()
    ]
    return [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")][:count]


def _config(tasks: list[str]) -> Config:
    from palmette import quickstart
    from palmette.config import Config

    data = quickstart.config().model_dump(mode="json", exclude_defaults=True)
    data["tasks"] = {task: TASKS[task][0] for task in tasks}
    data["sources"][0]["labels"] = {task: TASKS[task][1] for task in tasks}
    data["training"]["epochs"] = 1
    return Config.parse(data)


def bundle(tasks: list[str], *, quantize: str | None) -> Path:
    """The bundle of a model of some tasks; made where it is not there yet."""
    import palmette

    config = _config(tasks)
    folder = common.run_folder("one_pass", "+".join(tasks), config)
    if not (folder / "model.safetensors").exists():
        common.log(f"training {', '.join(tasks)}")
        palmette.train(config, folder, resume=folder.exists())
    made = folder.with_name(f"{folder.name}-{common.commit()}-{quantize or 'fp32'}")
    if not made.exists():
        # How much accuracy a model of one epoch loses by int8 says nothing.
        palmette.export(folder, made, quantize=quantize, accuracy_budget=100)
    return made


if __name__ == "__main__":
    main()
