"""What Palmette adds to the bare graph over a single text: `predict` against the ONNX session on the same ids.

Words, subwords, batch, decoding and rendering stand against the session's own computing. Texts one at a time, the two
alternating text by text; medians over texts of the median over rounds.

    python benchmarks/single_text.py BUNDLE            # a minute
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import common


def main() -> None:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    from one_pass import sample_texts
    from palmette.batching import Batch
    from palmette.runtime import Runtime

    model = Runtime.load(arguments.bundle, threads=arguments.threads)
    engine = model.predictor.engine
    seen: list[Batch] = []

    def keep(batch: Batch) -> Any:
        seen.append(batch)
        return engine(batch)

    texts = sample_texts(arguments.texts)
    model.predictor.engine = keep
    for text in texts:
        model.predict(text)
    model.predictor.engine = engine
    whole: list[list[float]] = [[] for _ in texts]
    bare: list[list[float]] = [[] for _ in texts]
    for _ in range(arguments.rounds):
        for number, text in enumerate(texts):
            started = time.perf_counter()
            engine(seen[number])
            between = time.perf_counter()
            model.predict(text)
            bare[number].append(between - started)
            whole[number].append(time.perf_counter() - between)
    ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(whole, bare, strict=True)]
    milliseconds = {
        name: round(1000 * statistics.median(statistics.median(found) for found in times), 3)
        for name, times in (("predict", whole), ("session", bare))
    }
    ratio = common.Target(round(statistics.median(ratios), 3), 1.15, at_most=True)
    common.report(
        "single_text",
        f"{model.bundle.manifest['precision']}, {len(model.kinds)} tasks",
        arguments=arguments,
        headline={"predict / session": ratio.value, **{f"{name}, ms": value for name, value in milliseconds.items()}},
        targets={"predict / session": ratio},
        details={"texts": len(texts), "rounds": arguments.rounds, "bundle": model.bundle.digest},
    )


if __name__ == "__main__":
    main()
