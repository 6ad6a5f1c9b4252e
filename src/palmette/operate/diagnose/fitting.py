"""Under- and over-training: what the history, and a head fitted to the end on the same trunk, say."""

from __future__ import annotations

import numpy as np

from palmette.operate.diagnose import quick
from palmette.operate.diagnose.case import Case, NotLookedAtError
from palmette.operate.diagnose.estimates import Gain, from_error, metric, paired
from palmette.operate.diagnose.finding import Finding

UNDER, OVER = "under-training", "over-training"


def detect(case: Case) -> list[Finding]:
    """Training that ended too early, or whose kept model is not this task's best."""
    if not case.subject.history:
        raise NotLookedAtError("needs history.jsonl of a run")
    return [*under(case), *over(case)]


def curve(case: Case) -> list[tuple[int, float]]:
    """The task's dev metric at each evaluation: (update, value)."""
    name = case.kind.metric
    return [
        (int(line["update"]), float(line["dev"][case.task][name]))
        for line in case.subject.history
        if line.get("event") == "evaluation" and case.task in line.get("dev", {})
    ]


def under(case: Case) -> list[Finding]:
    """A head that is fitted to the end on the run's own trunk does better, and train is not learned either."""
    main, train = case.like_train, case.train
    if not main.trained.shape[1] or not len(main.gold):
        raise NotLookedAtError("needs the run, and a task with classes")
    head = quick.fit(train.trained, train.gold, len(case.kind.labels))
    gain = paired(case.kind, quick.parts(case.kind, main, head.probabilities(main.trained)), main.parts, seed=case.seed)
    points = curve(case)
    learned = 100 * metric(case.kind, train.parts)
    held_out = 100 * metric(case.kind, main.parts)
    rising = _rising(points)
    losses = [line["loss"][case.task] for line in case.subject.history if case.task in line.get("loss", {})]
    gap = learned - held_out
    how = "a head fitted to the end on the run's own trunk, measured on " + main.split
    if rising.low > gain.low:
        gain, how = rising, "the last rise of the dev metric once more"
    said = ", ".join(f"{100 * value:.1f} after {update}" for update, value in points[-4:])
    return [
        Finding(
            cause=UNDER,
            task=case.task,
            summary=f"{learned:.1f} on train is only {gap:+.1f} from the {held_out:.1f} on held-out data"
            if gap < 5
            else f"{learned:.1f} on train, {held_out:.1f} on held-out data",
            gain=gain,
            unit=case.unit,
            how=how,
            p=gain.p,
            telling=gap < 4,
            command=f"palmette train {case.subject.data} --out NEW_RUN --set training.epochs="
            f"{2 * case.subject.config.training.epochs}",
            evidence=(
                f"dev metric by update: {said}" if said else "no evaluation on dev",
                *((f"training loss {losses[0]:.3f} at first, {losses[-1]:.3f} at the end",) if losses else ()),
            ),
            numbers={"train": learned, "held_out": held_out, "evaluations": points, "losses": losses[-5:]},
        )
    ]


def _rising(points: list[tuple[int, float]]) -> Gain:
    """What the next stretch would bring if the dev metric rose by half of what it rose in the last."""
    if len(points) < 2:
        return from_error(0.0, 1.0)
    values = np.array([value for _, value in points])
    step = 100 * (values[-1] - values[-2])
    best = bool(values.argmax() == len(values) - 1)
    return from_error(step / 2 if best else 0.0, max(1.0, abs(step) / 4))


def over(case: Case) -> list[Finding]:
    """The kept model is behind the best that the run had for this task on dev."""
    points = curve(case)
    selected = next((line["update"] for line in reversed(case.subject.history) if line["event"] == "selected"), None)
    kept = next((value for update, value in points if update == selected), None)
    if kept is None or len(points) < 2:
        return []
    best_at, best = max(points, key=lambda item: item[1])
    after = [update for update, _ in points if update > best_at]
    # The best of several evaluations is better by luck alone; half is what experience leaves of such a lead.
    lead = 100 * (best - kept) / 2
    size = len(case.sheets.get("dev", case.main))
    error = 100 * float(np.sqrt(max(best * (1 - best), 0.01) / max(size, 1)))
    if lead <= 0:
        return []
    gain = from_error(lead, error)
    return [
        Finding(
            cause=OVER,
            task=case.task,
            summary=f"dev was at {100 * best:.1f} after {best_at} updates; the kept model ({selected}) has "
            f"{100 * kept:.1f}" + (", and it fell after" if after else ""),
            gain=gain,
            unit=case.unit,
            how="half of the lead of the best evaluation: the other half is luck of the choice",
            p=gain.p,
            telling=False,
            command=f"palmette train {case.subject.data} --out NEW_RUN --set training.select={case.task}",
            numbers={"best": best, "best_update": best_at, "kept": kept, "selected": selected},
        )
    ]
