"""Does the threshold keep what it promises? Dev and test are split anew 200 times, one half fits, the other judges.

A model's claims on dev and test of EWT's tags and UNER's entities are collected once. In each trial the texts are dealt
into two halves; calibration and threshold are fitted on one as `palmette export` and `palmette calibrate` do, and the
precision of the automatic answers is counted on the other. Texts that stand in both (or twice) go to the same half.

    python benchmarks/decisions.py RUN --targets ner=0.9 pos=0.99        # 5 minutes, most of them the texts themselves
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import common

_SHARE = 0.92  # of the trials in which the target is to be met


def main() -> None:
    """Collect, resplit, report."""
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--targets", nargs="+", default=["ner=0.9", "pos=0.99"])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="", help="of the run, in the table; default: its folder's")
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    from palmette import calibration
    from palmette.confidence import Calibration
    from palmette.corpus import load_corpus
    from palmette.run import Run

    run = Run.load(arguments.run)
    _, predictor = run.heads("decisions")
    corpus = load_corpus(run.config, fitted=run.kinds)
    examples = [*corpus.splits["dev"], *corpus.splits["test"]]
    common.log(f"reading {len(examples)} texts")
    claims = calibration.collect(predictor, examples)
    keys = {key: number for number, key in enumerate(dict.fromkeys(example.key for example in examples))}
    group = np.array([keys[example.key] for example in examples])
    headline: dict[str, float | str] = {}
    targets, details = {}, {}
    for wanted in arguments.targets:
        task, _, value = wanted.partition("=")
        target, own = float(value), claims[task]
        rng = np.random.default_rng(arguments.seed)
        met, none, shares, precisions, methods = 0, 0, [], [], []
        eces: dict[str, list[float]] = {"before": [], "after": []}
        for _ in range(arguments.trials):
            half = rng.permutation(len(keys)) < len(keys) / 2
            first = half[group[own.text]]
            seen, unseen = own.select(first), own.select(~first)
            fitted = calibration.fit(seen)
            methods.append(fitted.calibration.method)
            for name, by in (("before", Calibration()), ("after", fitted.calibration)):
                eces[name].append(calibration.measure(calibration.confidences(unseen, by), unseen.right)["ece"])
            reached, _ = calibration.operate(fitted.held_out, seen.right, seen.text, target=target)
            if reached is None:
                none += 1
                continue
            automatic = calibration.confidences(unseen, fitted.calibration) >= reached.threshold
            precision = float(unseen.right[automatic].mean())
            met += precision >= target
            shares.append(float(automatic.mean()))
            precisions.append(precision)
        share = met / (arguments.trials - none) if none < arguments.trials else 0.0
        headline |= {
            f"{task}: {target:g} met, share of trials": round(share, 3),
            f"{task}: automatic": round(float(np.mean(shares)), 3) if shares else 0.0,
            f"{task}: right of all": round(float(own.right.mean()), 4),
            f"{task}: ECE before": round(float(np.mean(eces["before"])), 4),
            f"{task}: ECE after": round(float(np.mean(eces["after"])), 4),
        }
        targets[f"{task}: {target:g} met"] = common.Target(round(share, 3), _SHARE)
        details[wanted] = {
            "claims": len(own),
            "trials without a threshold": none,
            "methods": {method: methods.count(method) for method in sorted(set(methods))},
            "precision, quantiles": np.quantile(precisions, [0, 0.05, 0.5, 0.95, 1]).round(4).tolist()
            if precisions
            else [],
        }
        common.log(f"{wanted}: {headline} {details[wanted]}")
    common.report(
        "decisions",
        arguments.name or arguments.run.name,
        arguments=arguments,
        headline=headline,
        targets=targets,
        details={"trials": arguments.trials, **details},
    )


if __name__ == "__main__":
    main()
