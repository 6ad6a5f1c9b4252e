"""A cause with its evidence, and the order in which causes are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from palmette import statistics
from palmette.operate.diagnose.estimates import Gain

Confidence = Literal["high", "moderate", "low"]
_ORDER: dict[Confidence, int] = {"high": 0, "moderate": 1, "low": 2}

# The rule of the confidences; `docs/diagnose.md` says it in words.
HIGH_P, MODERATE_P = 0.01, 0.05
HIGH_LOW, MODERATE_POINTS = 1.0, 1.0  # points: the gain's lower bound; its estimate
CLAIMED = 0.5  # points: less is not worth a line


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause of one task's errors.

    Attributes:
        cause: e.g. `label noise`; one of `CAUSES`.
        task: whose.
        summary: the evidence in one sentence.
        gain: of mending it.
        unit: what the gain is measured in: the task's metric, or `ECE`.
        how: how the gain was estimated.
        p: of the evidence's test, uncorrected.
        telling: whether the evidence is what this cause alone leaves; without it the confidence is at most moderate.
        command: what to type next.
        evidence: further sentences.
        examples: some of the texts it is about.
        numbers: the statistics behind it.
        follows: whether it may follow from another cause that was found; it then stands behind those that are as
            certain.
        p_holm: corrected over all tests of the diagnosis.
        confidence: by `rank`.
    """

    cause: str
    task: str
    summary: str
    gain: Gain
    unit: str
    how: str
    p: float
    telling: bool
    command: str
    evidence: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    follows: bool = False
    p_holm: float = 1.0
    confidence: Confidence = "low"

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def confidence(finding: Finding, tasks_p: float) -> Confidence:
    """High: p (Holm) < 0.01, the gain's lower bound at least a point, and evidence that only this cause leaves."""
    if finding.telling and tasks_p < HIGH_P and finding.gain.low >= HIGH_LOW:
        return "high"
    if tasks_p < MODERATE_P and finding.gain.points >= MODERATE_POINTS:
        return "moderate"
    return "low"


def rank(findings: Sequence[Finding], *, tests: int) -> list[Finding]:
    """Most certain first, and of equally certain ones the greatest gain, what may follow from others last.

    Those below half a point are left out.

    Args:
        findings: of all tasks.
        tests: how many looks were taken, those that found nothing included: all count in Holm's correction.
    """
    padded = [finding.p for finding in findings] + [1.0] * max(0, tests - len(findings))
    corrected = statistics.holm(padded)[: len(findings)] if findings else []
    judged = [
        replace(finding, p_holm=p, confidence=confidence(finding, p))
        for finding, p in zip(findings, corrected, strict=True)
        if finding.gain.points >= CLAIMED
    ]
    return sorted(judged, key=lambda f: (_ORDER[f.confidence], f.follows, -f.gain.points))
