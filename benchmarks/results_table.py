"""benchmarks/results.jsonl as a Markdown table: the newest line of each benchmark and configuration.

Lines with a label (`--label "tiny subset"`) are no measurements and are left out unless asked for.

    python benchmarks/results_table.py --into docs/benchmarks.md
    python benchmarks/results_table.py --into README.md --benchmarks reference training_speed memory startup word_tokens
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import common


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    parser.add_argument("--labelled", action="store_true", help="show lines with a label too")
    parser.add_argument("--benchmarks", nargs="+", help="only these")
    parser.add_argument("--into", type=Path, help="fill the block of this page instead of printing")
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.results.read_text(encoding="utf-8").splitlines() if line.strip()]
    shown = [
        line
        for line in newest(line for line in lines if arguments.labelled or not line["label"])
        if not arguments.benchmarks or line["benchmark"] in arguments.benchmarks
    ]
    if arguments.into is None:
        print(table(shown))
        return
    common.fill(arguments.into, "results", table(shown))


def newest(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last line of each benchmark and configuration, by benchmark, in the order of first appearance."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for line in lines:
        found[line["benchmark"], line["configuration"]] = line
    benchmarks = list(dict.fromkeys(benchmark for benchmark, _ in found))
    return sorted(found.values(), key=lambda line: benchmarks.index(line["benchmark"]))


def table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Markdown."""
    rows = [
        "| benchmark | configuration | result | target | date, commit, machine | command |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        cells = [
            line["benchmark"] + (f" ({line['label']})" if line["label"] else ""),
            line["configuration"],
            "<br>".join(f"{name}: {_number(value)}" for name, value in line["headline"].items()),
            "<br>".join(_target(name, target) for name, target in line["targets"].items()) or "",
            f"{line['date'][:10]}, {line['commit']}, {_machine(line['machine'])}",
            f"`{line['command']}`",
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _machine(machine: Mapping[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}"


def _target(name: str, target: Mapping[str, Any]) -> str:
    sign = "≤" if target["at_most"] else "≥"
    verdict = "met" if target["met"] else f"**missed** ({target['value']:g})"
    return f"{name} {sign} {target['bound']:g}: {verdict}"


if __name__ == "__main__":
    main()
