"""What int8 costs a run on test: its bundle in fp32 against its bundle in int8, points of each task's metric.

Nothing is chosen here: export keeps or leaves int8 by dev alone. Each bundle's scores are those that export measured.

    python benchmarks/quantization.py RUN            # minutes
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import common

_LARGEST_LOSS = 0.5  # points


def main() -> None:
    """Export twice and report."""
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", default="", help="of the run, in the table; default: its folder's")
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    import palmette

    scores, sizes, kept = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        for precision, quantize in (("fp32", None), ("int8", "int8")):
            model = palmette.export(arguments.run, Path(folder) / precision, quantize=quantize, say=common.log)
            parity = model.bundle.read_json("parity.json")
            scores[precision] = {
                task: found[model.kinds[task].metric] for task, found in parity["scores"]["test"].items()
            }
            sizes[precision] = round(model.bundle.bytes / 1e6, 1)
            kept = parity.get("int8", {}).get("fp32_parts", [])
    lost = {task: round(100 * (scores["fp32"][task] - scores["int8"][task]), 2) for task in scores["fp32"]}
    common.report(
        "quantization",
        arguments.name or arguments.run.name,
        arguments=arguments,
        headline={
            **{f"{task}, points lost on test": value for task, value in lost.items()},
            "MB, fp32 -> int8": f"{sizes['fp32']} -> {sizes['int8']}",
        },
        targets={
            f"{task}, points lost": common.Target(value, _LARGEST_LOSS, at_most=True) for task, value in lost.items()
        },
        details={"scores": scores, "fp32_parts": kept},
    )


if __name__ == "__main__":
    main()
