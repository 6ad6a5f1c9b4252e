"""Thresholds of a bundle: from which confidence on its answers need nobody to look at them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from palmette import calibration
from palmette.calibration import Claims, Operating
from palmette.confidence import Calibration
from palmette.config import Config
from palmette.corpus import load_corpus
from palmette.deploy import bundle
from palmette.deploy.bundle import Bundle
from palmette.errors import BundleError, ConfigError
from palmette.runtime import Runtime


def set_thresholds(
    path: str | Path,
    out: str | Path,
    targets: Mapping[str, float],
    *,
    data: Config | None = None,
    split: str = "dev",
    say: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Write a bundle again, with thresholds under which its answers are to be reviewed.

    Args:
        path: the bundle.
        out: the folder to write; must not exist. The old bundle stays as it is: something may be serving it.
        targets: the precision that automatic answers shall have, by task; in (0, 1). Thresholds of other tasks stay.
        data: labelled texts to set thresholds on, which the bundle's model was not trained on; by default the claims
            that it made at export, of its run's dev data.
        split: of `data`.
        say: told what was found.

    Raises:
        ConfigError: a task is unknown, or a target is no share.
        BundleError: the bundle has no claims of a task, or no threshold reaches its target: the best is named.
    """
    out = Path(out)
    if out.exists():
        raise BundleError(f"{out}: exists; give --out another name, so that what serves from it is not changed")
    model = Runtime.load(path)
    for task, target in targets.items():
        if task not in model.kinds:
            raise ConfigError(f"--target {task}: the bundle has no such task; it has {', '.join(model.kinds)}")
        if not 0 < target < 1:
            raise ConfigError(f"--target {task}={target:g}: a precision is above 0 and below 1")
    claims = _claims(model, data, split)
    found: dict[str, Operating] = {}
    for task, target in targets.items():
        found[task] = reached = _reach(task, target, claims)
        say(
            f"{task}: from a confidence of {reached.threshold:.4f} on, {reached.share:.1%} of answers are automatic; "
            f"{reached.precision:.4f} of them are right, surely {reached.bound:.4f}"
        )
    return _rewrite(model, out, targets, found, "its run's dev data" if data is None else f"given data ({split})")


def targets_of(found: Bundle) -> dict[str, float]:
    """The precision that thresholds of a bundle were set for, by task."""
    if bundle.CALIBRATION not in found.manifest["files"]:
        return {}
    report = found.read_json(bundle.CALIBRATION)
    return {task: float(entry["decisions"]["target"]) for task, entry in report.items() if "decisions" in entry}


def out_of_reach(found: Bundle, targets: Mapping[str, float]) -> dict[str, str]:
    """Of which tasks no threshold of this bundle reaches the target on its run's dev data, and why."""
    reasons = {}
    claims = _claims(Runtime.load(found.folder), None, "dev")
    for task, target in targets.items():
        try:
            _reach(task, target, claims)
        except BundleError as error:
            reasons[task] = str(error)
    return reasons


def _reach(task: str, target: float, claims: Mapping[str, Claims]) -> Operating:
    """The smallest threshold that reaches the target.

    Raises:
        BundleError: there are no claims, or none does.
    """
    if task not in claims or not len(claims[task]):
        raise BundleError(
            f"task {task}: there are no claims to set a threshold on: its kind gives no confidences, or the data "
            "has no labels for it (give labelled texts with --data)"
        )
    own = claims[task]
    reached, best = calibration.operate(own.confidence[0], own.right, own.text, target=target)
    if reached is None:
        raise BundleError(
            f"task {task}: no threshold reaches a precision of {target:g} for sure. Best: {best.threshold:.4f}, "
            f"with {best.precision:.4f}, surely {best.bound:.4f}, for {best.share:.0%} of the answers. Ask for "
            "less, or give more labelled texts with --data"
        )
    return reached


def _claims(model: Runtime, data: Config | None, split: str) -> dict[str, Claims]:
    if data is None:
        if bundle.CLAIMS not in model.bundle.manifest["files"]:
            raise BundleError(f"{model.bundle.folder}: was exported without its claims on dev; give labelled --data")
        return calibration.unpack(model.bundle.read(bundle.CLAIMS), model.kinds)
    corpus = load_corpus(data, fitted={task: kind for task, kind in model.kinds.items() if task in data.tasks})
    return calibration.collect(model.predictor, corpus.splits[split], temperatures=(1.0,))


def _rewrite(
    model: Runtime, out: Path, targets: Mapping[str, float], found: Mapping[str, Operating], where: str
) -> Bundle:
    old = model.bundle
    described = old.read_json(bundle.TASKS)
    report = old.read_json(bundle.CALIBRATION) if bundle.CALIBRATION in old.manifest["files"] else {}
    lines = [
        "",
        "## Decisions",
        "",
        f"Set on {where}. Below its threshold an answer comes with `decision: review`.",
        "",
    ]
    lines += ["| task | precision wanted | threshold | precision | surely | automatic |", "|---|---|---|---|---|---|"]
    for task, point in found.items():
        state = described["tasks"][task]["state"]
        before = Calibration.of(state.get("calibration"))
        state["calibration"] = {**before.state(), "threshold": point.threshold}
        report.setdefault(task, {})["decisions"] = {
            "target": targets[task],
            "threshold": point.threshold,
            "precision": point.precision,
            "bound": point.bound,
            "level": calibration.LEVEL,
            "share": point.share,
            "data": where,
        }
        lines.append(
            f"| {task} | {targets[task]:g} | {point.threshold:.4f} | {point.precision:.4f} | {point.bound:.4f} "
            f"| {point.share:.1%} |"
        )
    files = {name: old.read(name) for name in old.manifest["files"]}
    files[bundle.TASKS] = _json(described)
    files[bundle.CALIBRATION] = _json(report)
    files[bundle.CARD] = files[bundle.CARD].rstrip() + b"\n" + "\n".join(lines).encode() + b"\n"
    about = {key: value for key, value in old.manifest.items() if key not in ("format", "files")}
    return bundle.write_bundle(out, files, about={**about, "from": old.digest})


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
