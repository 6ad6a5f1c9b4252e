"""What any summary must beat: the first sentence of each text, scored as a model's answers are.

python benchmarks/lead.py configs/lora.yaml        # every generation task whose source keeps lists of sentences
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from palmette.config import Config


def main() -> None:
    """Score and report."""
    parser = common.parser(__doc__)
    parser.add_argument("config", type=Path)
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    from palmette.config import Config
    from palmette.kinds import find_kind

    config = Config.load(arguments.config)
    for task, declared in config.tasks.items():
        pairs = list(_leads(config, task)) if declared.kind == "generation" else []
        if not pairs:
            continue
        kind: Any = find_kind(declared.kind)(task, declared, {})
        scores = kind.score([gold for gold, _ in pairs], [(lead,) for _, lead in pairs])
        common.report(
            "lead",
            f"{arguments.config.stem}, {task}",
            arguments=arguments,
            headline={f"{kind.metric} (test)": round(scores[kind.metric], 4), "texts": len(pairs)},
            details=scores,
        )


def _leads(config: Config, task: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The references and the first sentence of each test text."""
    for source in config.sources:
        if source.format != "jsonl" or not source.sentences or task not in source.labels:
            continue
        files = [source.test] if isinstance(source.test, str) else source.test
        if not isinstance(files, list):
            raise SystemExit(f"{config.where('sources')}: expected files of test texts, found {source.test}")
        key = str(source.label_field(task).column)
        for file in files:
            for line in Path(file).read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                yield tuple(" ".join(text.split()) for text in record[key]), record[source.text][0]


if __name__ == "__main__":
    main()
