"""The figures of a study's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from palmette.study import drawing
from palmette.study.drawing import GAIN, INK, LOSS, MUTED, Figure
from palmette.study.tables import against, baseline_of, cosines, shared
from palmette.study.wording import compared, interval, number, points, regime_label, short, signed, signed_points


def forest(study: Mapping[str, Any]) -> Figure:
    """Differences to the baseline with their intervals: a panel a task, each with its own scale around zero."""
    plan, differences = study["plan"], study["differences"]
    baseline = plan["baseline_regime"]
    regimes = [regime for regime in plan["regimes"] if regime != baseline]
    style = drawing.styles(plan["regimes"])
    with drawing.canvas(20 + len(differences) * (42 + 19 * len(regimes))) as canvas:
        panels = canvas.subplots(len(differences), 1, squeeze=False)[:, 0]
        for axes, (task, by_regime) in zip(panels, differences.items(), strict=True):
            axes.set_title(against(study, task))
            reach = max(
                map(abs, drawing.window([(100 * d["low"], 100 * d["high"]) for d in by_regime.values() if compared(d)]))
            )
            window = (-reach, reach)  # zero in the middle of every panel
            for place, regime in enumerate(regimes):
                d = by_regime.get(regime, {})
                if not compared(d):
                    missing = "baseline" if regime == baseline_of(study, task) else "no result"
                    drawing.beside(axes, place, d.get("verdict", missing))
                    continue
                _whisker(axes, place, d, style[regime], window)
                drawing.beside(axes, place, f"{signed_points(d['difference'])} {interval(d['low'], d['high'])}")
            axes.axvline(0, color=INK, lw=0.9, zorder=1)
            axes.set(xlim=window, ylim=(len(regimes) - 0.5, -0.5))
            axes.grid(visible=True, axis="x")
            axes.locator_params(axis="x", nbins=6, symmetric=True)
            drawing.row_labels(axes, [regime_label(regime) for regime in regimes])
        panels[-1].set_xlabel(f"points less or more than {regime_label(baseline)}")
        said = [
            f"{task}, {regime_label(regime)}: {signed_points(d.get('difference'))} "
            f"{interval(d.get('low'), d.get('high'))}, {d['verdict']}."
            for task, by_regime in differences.items()
            for regime, d in by_regime.items()
        ]
        title = f"Differences to {regime_label(baseline)}, in points"
        return drawing.finished(canvas, "forest", title, " ".join(said))


def _whisker(
    axes: Axes, place: float, d: Mapping[str, Any], style: tuple[str, str], window: tuple[float, float]
) -> None:
    """One interval and its middle; an arrow at the edge stands for what lies off the scale."""
    colour, marker = style
    low, high = 100 * d["low"], 100 * d["high"]
    axes.plot([low, high], [place, place], color=colour, solid_capstyle="butt")
    filled = d["verdict"] != "no difference shown"
    axes.plot(100 * d["difference"], place, marker, color=colour, mfc=colour if filled else "white", mew=1.5, zorder=3)
    _arrows(axes, place, (low, high), colour, window)


def _arrows(axes: Axes, place: float, span: tuple[float, float], colour: str, window: tuple[float, float]) -> None:
    margin = 0.015 * (window[1] - window[0])
    for edge, arrow, beyond in (
        (window[0] + margin, "<", span[0] < window[0]),
        (window[1] - margin, ">", span[1] > window[1]),
    ):
        if beyond:
            axes.plot(edge, place, arrow, color=colour, ms=6, mew=0, zorder=4)


def scores(study: Mapping[str, Any]) -> Figure:
    """Every seed of every regime, a panel a task, and the mean over the seeds."""
    plan, tasks = study["plan"], study["scores"]
    style = drawing.styles(plan["regimes"])
    rows = [regime_label(regime) for regime in plan["regimes"]]
    with drawing.canvas(len(tasks) * (44 + 19 * len(rows)) + 16) as canvas:
        panels = canvas.subplots(len(tasks), 1, squeeze=False)[:, 0]
        for axes, (task, by_regime) in zip(panels, tasks.items(), strict=True):
            axes.set_title(f"{task}: {study['tasks'][task]['metric']}")
            seeds = {
                regime: [100 * v for v in found["seeds"].values() if v is not None]
                for regime, found in by_regime.items()
            }
            middle = by_regime.get(plan["baseline_regime"], {}).get("mean")
            known = [(min(v), max(v)) for v in seeds.values() if v]
            window = drawing.window(known, around=100 * middle if middle is not None else None)
            for place, regime in enumerate(plan["regimes"]):
                _seeds(axes, place, seeds.get(regime, []), style[regime], window)
                found = by_regime.get(regime, {})
                if "reason" in found:
                    drawing.beside(axes, place, found["reason"])
                    continue
                lost = len(plan["seeds"]) - len(seeds.get(regime, []))
                mean = found.get("mean")
                drawing.beside(axes, place, points(mean) + (f"  ({lost} failed)" if lost else ""))
            axes.set(xlim=window, ylim=(len(rows) - 0.5, -0.5))
            axes.grid(visible=True, axis="x")
            drawing.row_labels(axes, rows)
        panels[-1].set_xlabel("score on test, times 100")
        said = [
            f"{task}: " + ", ".join(f"{regime_label(r)} {points(f['mean'])}" for r, f in by_regime.items()) + "."
            for task, by_regime in tasks.items()
        ]
        return drawing.finished(canvas, "scores", "Score of every seed, by task and regime", "Means: " + " ".join(said))


def _seeds(
    axes: Axes, place: float, values: Sequence[float], style: tuple[str, str], window: tuple[float, float]
) -> None:
    if not values:
        return
    colour, marker = style
    # Side by side across the row, so that equal scores stay apart.
    across = place + np.linspace(-0.24, 0.24, len(values)) if len(values) > 1 else [place]
    axes.plot(values, across, marker, color=colour, mfc="white", mew=1.1, ms=4.5, zorder=3)
    mean = float(np.mean(values))
    axes.plot([mean, mean], [place - 0.4, place + 0.4], color=colour, lw=2, zorder=2, solid_capstyle="butt")
    _arrows(axes, place, (mean, mean), colour, window)


_COSTS = (("ms_per_text", 1.0, "ms per text"), ("bytes", 1e-6, "MB to ship"), ("seconds", 1 / 60, "minutes to train"))


def cost_quality(study: Mapping[str, Any], ledger: Mapping[str, Any]) -> Figure:
    """Mean difference to the baseline over the tasks, against each cost; a line spans the worst and the best task."""
    plan = study["plan"]
    baseline = plan["baseline_regime"]
    style = drawing.styles(plan["regimes"])
    gains: dict[str, list[float]] = {baseline: [0.0]}
    for by_regime in shared(study):
        for regime, d in by_regime.items():
            if compared(d):
                gains.setdefault(regime, []).append(100 * d["difference"])
    shown = [regime for regime in plan["regimes"] if regime in gains and regime in ledger["regimes"]]
    window = drawing.window([(min(gains[regime]), max(gains[regime])) for regime in shown])
    said = []
    with drawing.canvas(232) as canvas:
        panels = canvas.subplots(1, len(_COSTS), sharey=True)
        for axes, (key, scale, label) in zip(panels, _COSTS, strict=True):
            axes.axhline(0, color=INK, lw=0.9)
            most = 0.0
            for regime in shown:
                cost = ledger["regimes"][regime].get(key)
                if cost is None:
                    continue
                colour, marker = style[regime]
                most = max(most, cost * scale)
                values = gains[regime]
                axes.plot([cost * scale] * 2, [min(values), max(values)], color=colour, lw=1.2, alpha=0.7)
                mean = float(np.mean(values))
                inside = min(max(mean, window[0]), window[1])
                beyond = "v" if mean < inside else "^"
                axes.plot(
                    cost * scale,
                    inside,
                    marker if inside == mean else beyond,
                    color=colour,
                    ms=7,
                    clip_on=False,
                    zorder=3,
                )
                axes.plot([], [], marker, color=colour, ms=7, label=regime_label(regime))  # the legend's
                said.append(f"{regime_label(regime)}: {number(cost * scale, 1)} {label}, {signed(mean)} points.")
            axes.set(xlim=(0, 1.15 * most or 1), ylim=window, xlabel=label)
            axes.locator_params(axis="x", nbins=3)
            axes.grid(visible=True)
        panels[0].set_ylabel(f"points to {regime_label(baseline)}")
        drawing.legend(canvas, panels[0])
        return drawing.finished(canvas, "cost", "Quality against cost, by regime", " ".join(said))


def conflict(transfer: Mapping[str, Any]) -> Figure:
    """Cosine between two tasks' gradients over training, mean over layers: a panel a pair, a thin line a seed."""
    series = cosines(transfer)
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    most = 1.15 * max(
        (float(np.abs(values).max()) for _, by_seed in series.values() for values in by_seed.values()), default=1
    )
    said = []
    with drawing.canvas(46 + 106 * rows) as canvas:
        panels = list(canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
        for axes, ((first, second), (shares, by_seed)) in zip(panels, series.items(), strict=False):
            x = 100 * np.array(shares)
            mean = np.mean(list(by_seed.values()), axis=0)
            axes.fill_between(x, mean, 0, where=mean <= 0, interpolate=True, color=LOSS, alpha=0.22, lw=0)
            axes.fill_between(x, mean, 0, where=mean >= 0, interpolate=True, color=GAIN, alpha=0.18, lw=0)
            for values in by_seed.values():
                axes.plot(x, values, color=MUTED, lw=0.6, alpha=0.6)
            axes.plot(x, mean, color=INK)
            axes.axhline(0, color=INK, lw=0.7)
            axes.set_title(_pair_title(first, second), fontsize=9.5)
            axes.set(xlim=(0, 100), ylim=(-most, most), xticks=[0, 50, 100])
            said.append(f"{first} and {second}: from {signed(float(mean[0]))} to {signed(float(mean[-1]))}.")
        for axes in panels[len(series) :]:
            axes.set_axis_off()
        canvas.supxlabel("percent of the training", fontsize=10, color=MUTED)
        canvas.supylabel("cosine", fontsize=10, color=MUTED)
        return drawing.finished(canvas, "conflict", "Cosine between the tasks' gradients over training", " ".join(said))


def _pair_title(first: str, second: str) -> str:
    """Two names in a panel a third as wide as the figure."""
    title = f"{first}, {second}"
    return title if len(title) <= 16 else f"{short(first, 14)},\n{short(second, 14)}"


def affinity_scatter(transfer: Mapping[str, Any]) -> Figure:
    """Affinity against measured transfer: a point an ordered pair, marked by the task that is acted on."""
    tasks = sorted(transfer["affinity"])
    with drawing.canvas(250) as canvas:
        axes = canvas.add_subplot()
        axes.axhline(0, color=MUTED, lw=0.7)
        axes.axvline(0, color=MUTED, lw=0.7)
        for task, (colour, marker) in drawing.styles(tasks).items():
            pairs = [
                (1e4 * found[task], 100 * transfer["pairs"][other][task]["difference"])
                for other, found in transfer["affinity"].items()
                if task in found and compared(transfer["pairs"].get(other, {}).get(task))
            ]
            x, y = zip(*pairs, strict=True) if pairs else ((), ())
            axes.plot(x, y, marker, color=colour, ms=6.5, mew=0, label=f"on {short(task, 20)}")
        axes.set(xlabel="affinity, ten thousandths of the loss", ylabel="measured, points")
        axes.margins(0.12)
        axes.grid(visible=True)
        drawing.legend(canvas, axes)
        relation = transfer.get("rank_correlation")
        said = "" if relation is None else f"Rank correlation {signed(relation['rho'])} over {relation['pairs']} pairs."
        return drawing.finished(canvas, "affinity-transfer", "Affinity against measured transfer", said)


def learning_curve(study: Mapping[str, Any]) -> Figure:
    """Score on test, and how much better the model does on train than on dev, by share of the training data."""
    curve = study["learning_curve"]
    regimes = list(dict.fromkeys(point["regime"] for point in curve["points"]))
    style = drawing.styles(list(dict.fromkeys([*study["plan"]["regimes"], *regimes])))
    percents = sorted({point["percent"] for point in curve["points"]})
    said = []
    with drawing.canvas(370) as canvas:
        score, gap = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for order, regime in enumerate(regimes):
            colour, marker = style[regime]
            found = sorted((p for p in curve["points"] if p["regime"] == regime), key=lambda p: p["percent"])
            known = [p for p in found if p["mean"] is not None]
            # A few percent apart, or the bars of regimes with equal scores hide each other.
            x = [p["percent"] * 1.04 ** (order - (len(regimes) - 1) / 2) for p in known]
            for place, point in zip(x, known, strict=True):
                seeds = [100 * value for value in point["seeds"].values() if value is not None]
                score.plot([place] * len(seeds), seeds, marker, color=colour, ms=3, mew=0, alpha=0.45)
            score.errorbar(
                x,
                [100 * p["mean"] for p in known],
                [100 * (p["sd"] or 0) for p in known],
                color=colour,
                marker=marker,
                elinewidth=1,
                label=regime_label(regime),
            )
            wide = [(place, 100 * p["gap"]) for place, p in zip(x, known, strict=True) if p["gap"] is not None]
            gap.plot([place for place, _ in wide], [value for _, value in wide], color=colour, marker=marker)
            said.append(
                f"{regime_label(regime)}: "
                + ", ".join(f"{points(p['mean'])} at {p['percent']:g} %" for p in known)
                + "."
            )
        score.set(xscale="log", ylabel="score on test, times 100")
        gap.set(ylabel="train \N{MINUS SIGN} dev, points", xlabel=f"percent of the training data of {curve['task']}")
        gap.set_xticks(percents, [f"{percent:g}" for percent in percents])
        gap.minorticks_off()
        gap.axhline(0, color=MUTED, lw=0.7)
        for axes in (score, gap):
            axes.grid(visible=True)
        drawing.legend(canvas, score)
        title = f"Score and train\N{EN DASH}dev gap by share of the training data of {curve['task']}"
        return drawing.finished(canvas, "learning-curve", title, " ".join(said))


def matrix(
    name: str,
    title: str,
    cells: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    digits: int = 2,
    strong: frozenset[tuple[int, int]] = frozenset(),
    across: str = "",
    down: str = "",
) -> Figure:
    """Numbers in coloured cells, blue above zero and orange below; empty where there is none.

    Args:
        name: of the figure.
        title: of the figure.
        cells: [rows, columns].
        rows: their names.
        columns: their names.
        digits: of the numbers, which are left to the table where cells are too narrow for them.
        strong: cells (row, column) that are written in bold.
        across: what the columns are.
        down: what the rows are.
    """
    values = np.array([[np.nan if value is None else value for value in row] for row in cells], dtype=np.float64)
    most = float(np.nanmax(np.abs(values), initial=0)) or 1.0
    crowded = sum(map(len, columns)) > 40
    height = 50 + (34 if len(rows) < 9 else 22) * len(rows) + (3 * max(map(len, columns)) if crowded else 20)
    with drawing.canvas(height) as canvas:
        axes = canvas.add_subplot()
        shade = np.ma.masked_invalid(values)
        axes.pcolormesh(shade, cmap=drawing.DIVERGING, vmin=-most, vmax=most, edgecolor="white", lw=1.5)
        width = (drawing.WIDTH - 6 * max(map(len, rows)) - 30) / len(columns)
        for (y, x), value in np.ndenumerate(values):
            if not np.isnan(value) and width >= 5 * (digits + 3):
                weight, size = "bold" if (y, x) in strong else "normal", 9.5 if width >= 36 else 8.5
                text = signed(float(value), digits)
                axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", weight=weight, size=size)
        turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, **turned)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.set(ylim=(len(rows), 0), xlabel=across, ylabel=down)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        said = [
            f"{row}: "
            + ", ".join(f"{c} {signed(v, digits)}" for c, v in zip(columns, found, strict=True) if v is not None)
            + "."
            for row, found in zip(rows, cells, strict=True)
        ]
        return drawing.finished(canvas, name, title, " ".join(said))
