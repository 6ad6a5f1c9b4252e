"""Windows of a task's traffic, one after the other: what each showed, and when that is an alarm."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import add

from palmette.operate.watch.estimate import Estimate, Seen, estimate
from palmette.operate.watch.looks import Look
from palmette.operate.watch.profile import TaskProfile
from palmette.operate.watch.shift import ASSUMED, CONFIDENCE, INPUT, LABELS, SUBWORDS, UNKNOWN, Detector, Finding

KEPT = 200  # windows whose findings are remembered
_FALSE = 0.05  # probability that any signal of any task exceeds its limit in a window of the same traffic
_DOUBT = 0.01  # the same for withholding an estimate, which one window suffices for
_PERSISTENT = 2  # windows in a row in which a signal must exceed its limit
_ESTIMATED = 4  # windows at most that an estimate is of: in one, chance alone may be worth some points

_WHAT = {
    LABELS: "its answers are distributed differently",
    CONFIDENCE: "its confidences have moved",
    INPUT: "the texts are of another kind than those it was measured on",
    SUBWORDS: "words fall into another number of subwords",
    UNKNOWN: "another share of subwords is unknown to the vocabulary",
}
_UNITS = {
    LABELS: "{:.1%} of the labels changed places",
    CONFIDENCE: "{:.3f} of confidence on the average",
    INPUT: "{:.3f} maximum mean discrepancy",
    SUBWORDS: "{:.3f} words a subword on the average",
    UNKNOWN: "{:.2%} of the subwords",
}
_NEXT = {
    LABELS: "See which labels became frequent; the model may still be right. Have a random share of answers reviewed.",
    CONFIDENCE: "Have the least confident answers reviewed, and see whether another signal moved as well.",
    INPUT: "Read some of the new texts. Have a random share of their answers reviewed, and train on the corrections.",
    SUBWORDS: "See how callers split and clean texts: encoding, casing, words that are split twice, another language.",
    UNKNOWN: "See whether callers send another script, another encoding or damaged characters.",
}


@dataclass(frozen=True, slots=True)
class Alarm:
    """A signal that stayed beyond its limit.

    Attributes:
        task, signal: what moved.
        since: when the first of the windows began.
        windows: how many windows in a row it has lasted.
        effect: how far it moved, in the last of them.
        usual: how far chance moves it.
        message: what, since when, by how much.
        advice: what to look at next.
    """

    task: str
    signal: str
    since: datetime
    windows: int
    effect: float
    usual: float
    message: str
    advice: str


@dataclass(frozen=True, slots=True)
class Window:
    """What a window of texts showed.

    Attributes:
        began, ended: when its first and its last text were answered.
        texts: how many.
        findings: of each signal.
        estimate: of the share of right answers in it and those before that are like it; None: see `reason`.
        reason: why there is no estimate.
    """

    began: datetime
    ended: datetime
    texts: int
    findings: Mapping[str, Finding]
    estimate: Estimate | None
    reason: str | None


class TaskWatch:
    """A task's windows. Not for several threads at once.

    False alarms are bounded twice: the limit of each signal shares 5 % a window among all signals of all tasks
    (Bonferroni), and a signal must be beyond it in two windows in a row. Estimates roll: each is of the latest windows
    together, back to the last change of labels or doubt.

    Args:
        task: its name.
        profile: the reference.
        window: texts in a window.
        tasks: how many are watched.
        seed: of the resampling.

    Attributes:
        windows: the latest, oldest first.
        alarms: that last, by signal.
        raised: how many were ever raised, by signal.
        seen: texts in all.
    """

    def __init__(self, task: str, profile: TaskProfile, *, window: int, tasks: int, seed: int) -> None:
        self.task = task
        self.profile = profile
        self.size = window
        self.detector = Detector(profile, window=window, seed=seed)
        signals = tasks * len(self.detector.signals)
        self.limit, self._doubt = _FALSE / signals, _DOUBT / signals
        self.windows: deque[Window] = deque(maxlen=KEPT)
        self.alarms: dict[str, Alarm] = {}
        self.raised: dict[str, int] = dict.fromkeys(self.detector.signals, 0)
        self.seen = 0
        self._waiting: list[Look] = []
        self._began: datetime | None = None
        self._since: dict[str, tuple[datetime, int]] = {}
        self._alike: deque[Seen] = deque(maxlen=_ESTIMATED)
        self._moved = False  # whether the labels of `_alike` have

    @property
    def waiting(self) -> int:
        """Texts of the window that is being filled."""
        return len(self._waiting)

    def add(self, look: Look, *, now: datetime) -> bool:
        """Look at a text; whether that filled a window."""
        self._began = self._began or now
        self._waiting.append(look)
        self.seen += 1
        if len(self._waiting) < self.size:
            return False
        self._close(self._began, now)
        self._waiting, self._began = [], None
        return True

    def _close(self, began: datetime, ended: datetime) -> None:
        findings = self.detector.compare(self._waiting)
        for signal, finding in findings.items():
            if finding.p > self.limit:
                self._since.pop(signal, None)
                self.alarms.pop(signal, None)
                continue
            since, lasted = self._since.get(signal, (began, 0))
            self._since[signal] = since, lasted + 1
            if lasted + 1 >= _PERSISTENT:
                self.raised[signal] += signal not in self.alarms
                self.alarms[signal] = self._alarm(signal, since, lasted + 1, finding)
        reason, found = self._broken(findings), None
        moved = LABELS in findings and findings[LABELS].p <= self.limit
        if reason or moved != self._moved:
            self._alike.clear()
        self._moved = moved
        if not reason:
            self._alike.append(Seen.of(self._waiting, self.profile.labels))
            found = estimate(self.profile, reduce(add, self._alike), moved=moved)
            reason = None if found else "its answers have no confidences to go by"
        self.windows.append(Window(began, ended, len(self._waiting), findings, found, reason))

    def _alarm(self, signal: str, since: datetime, windows: int, finding: Finding) -> Alarm:
        effect, usual = (_UNITS[signal].format(value) for value in (finding.effect, finding.usual))
        message = (
            f"{self.task}: {_WHAT[signal]}, since {since:%Y-%m-%d %H:%M} UTC ({windows} windows of {self.size} texts): "
            f"{effect}; by chance it would be {usual}."
        )
        return Alarm(self.task, signal, since, windows, finding.effect, finding.usual, message, _NEXT[signal])

    def _broken(self, findings: Mapping[str, Finding]) -> str | None:
        """Why confidences may no longer mean what they meant on dev, if so: it needs no second window to doubt that."""
        moved = [signal for signal in ASSUMED if findings[signal].p <= self._doubt]
        if not moved:
            return None
        said = " and ".join(_WHAT[signal] for signal in moved)
        return f"no number can be supported: {said}, so that confidences need not mean what they meant on dev"
