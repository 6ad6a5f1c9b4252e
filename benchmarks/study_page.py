"""A finished study as a page of the documentation: verdicts, differences, scores, cost, and two of its figures.

python benchmarks/study_page.py --into docs/reference-study.md      # of runs/studies/reference; seconds

Beside it the cut study of `cut_study.py`, once it is made: how far its verdicts agree; and a study of pairs of tasks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
from cut_study import STUDIES, agreement
from palmette.study import plots, tables, wording
from palmette.study.drawing import Figure
from palmette.study.page import correlation, methods
from palmette.study.tables import Cell, Table


def main() -> None:
    """Write the page's block and the figures beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=STUDIES / "reference")
    parser.add_argument("--cut", type=Path, default=STUDIES / "reference-cut", help="the cut study, if it is there")
    parser.add_argument("--pairs", type=Path, default=STUDIES / "reference-pairs", help="one with pairs, likewise")
    parser.add_argument("--into", type=Path, required=True, help="the page, with a block <!-- study:begin --> … end")
    arguments = parser.parse_args()
    study, ledger = (
        json.loads((arguments.study / name).read_text(encoding="utf-8")) for name in ("study.json", "ledger.json")
    )
    images = arguments.into.parent / "images"
    stem = arguments.into.stem
    written = [
        f"**{study['recommendation']['sentence']}**",
        markdown(tables.verdicts(study)),
        drawn(plots.forest(study), images, stem),
        markdown(tables.differences(study)),
        markdown(tables.scores(study)),
        drawn(plots.cost_quality(study, ledger), images, stem),
        markdown(tables.ledger(study, ledger)),
        how(study, ledger),
    ]
    common.fill(arguments.into, "study", "\n\n".join(written))
    if (arguments.cut / "study.json").exists():
        cut = json.loads((arguments.cut / "study.json").read_text(encoding="utf-8"))
        common.fill(arguments.into, "cut", markdown(agreed(study, cut)))
    if (arguments.pairs / "study.json").exists():
        pairs = json.loads((arguments.pairs / "study.json").read_text(encoding="utf-8"))
        transfer = pairs["transfer"]
        written = [
            markdown(tables.differences(pairs)),
            markdown(tables.pairs(transfer)),
            markdown(tables.affinity(transfer)),
            drawn(plots.affinity_scatter(transfer), images, stem),
            correlation(transfer),
            markdown(tables.grouping(transfer)),
        ]
        common.fill(arguments.into, "pairs", "\n\n".join(written))


def agreed(full: Mapping[str, Any], cut: Mapping[str, Any]) -> Table:
    """What both studies say of each task and regime, side by side."""
    found = agreement(full, cut)
    pairs = found["pairs"]
    rows = [
        (
            pair["task"],
            wording.regime_label(pair["regime"]),
            *(_found(pair[study]) for study in ("full", "cut")),
            "yes" if pair["inside"] else "no",
        )
        for pair in pairs
    ]
    same = sum(pair["same"] for pair in pairs)
    decisions = found["decisions"].values()
    caption = (
        f"Verdicts that agree: {same} of {len(pairs)}; that contradict each other: "
        f"{sum(pair['opposite'] for pair in pairs)}; decisions that agree: {sum(decisions)} of {len(decisions)}"
    )
    columns = ("task", "regime", "full study, points", "cut study, points", "full difference in the cut interval")
    return Table(caption, columns, (("", tuple(rows)),))


def _found(one: Mapping[str, Any]) -> str:
    difference, interval = wording.signed_points(one["difference"]), wording.interval(one["low"], one["high"])
    return f"{difference} {interval}, {one['verdict']}"


def how(study: Mapping[str, Any], ledger: Mapping[str, Any]) -> str:
    """Budget, seeds, versions and machines, as the study's own page says them."""
    found = methods(study, ledger)["terms"]
    return "\n".join([_line(["", "how it was made"]), _line(["---"] * 2), *(_line(pair) for pair in found.items())])


def drawn(figure: Figure, images: Path, stem: str) -> str:
    """The figure as a file beside the pages, and the Markdown that shows it."""
    name = f"{stem}-{figure.name}.svg"
    images.mkdir(exist_ok=True)
    (images / name).write_text(figure.svg + "\n", encoding="utf-8")
    return f"![{figure.title}. {figure.description}](images/{name})"


def markdown(table: Table) -> str:
    """A table with its caption; rows of a group are named after it."""
    lines = [f"**{table.caption}**", "", _line(table.columns), _line(["---"] * len(table.columns))]
    for heading, rows in table.groups:
        if heading:
            lines.append(_line([f"**{heading}**", *[""] * (len(table.columns) - 1)]))
        lines += [_line([cell.text if isinstance(cell, Cell) else cell for cell in row]) for row in rows]
    return "\n".join(lines)


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


if __name__ == "__main__":
    main()
