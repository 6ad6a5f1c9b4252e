"""Quantisation loss: what the bundle's int8 weights cost, measured at export and again now."""

from __future__ import annotations

import numpy as np

from palmette.operate.diagnose.case import Case, NotLookedAtError
from palmette.operate.diagnose.estimates import from_error, metric
from palmette.operate.diagnose.finding import Finding

CAUSE = "quantisation loss"


def detect(case: Case) -> list[Finding]:
    """The task's score in fp32, kept by the export, less the bundle's on the same split."""
    found = case.subject.parity.get("int8")
    if not case.subject.parity:
        raise NotLookedAtError("needs a bundle")
    if not found or case.task not in found.get("fp32", {}):
        raise NotLookedAtError("the bundle is not quantised")
    split = case.subject.parity["splits"][case.task]
    wanted = float(found["fp32"][case.task])
    recorded = float(found["points_lost"][case.task])
    sheet = case.sheets.get(split)
    whole = sheet is not None and len(sheet) == sum(
        case.task in example.labels for example in case.subject.corpus.splits[split]
    )
    if sheet is not None and whole:
        lost, how = (
            100 * (wanted - metric(case.kind, sheet.parts)),
            f"fp32 at export less the bundle now, both on {split}",
        )
    else:
        lost, how = recorded, f"fp32 less int8 on {split}, as parity.json of the bundle has it"
    count = len(sheet) if sheet is not None else 1000
    # Both answered the same examples: only those that changed between right and wrong make the difference vary.
    error = 100 * float(np.sqrt(max(abs(lost) / 100, 0.002) / max(count, 1)))
    gain = from_error(lost, error)
    return [
        Finding(
            cause=CAUSE,
            task=case.task,
            summary=f"int8 costs {lost:.1f} points of {case.kind.metric} (fp32 has {100 * wanted:.1f} on {split}; the "
            f"export measured {recorded:+.1f})",
            gain=gain,
            unit=case.unit,
            how=how,
            p=gain.p,
            telling=True,
            command="palmette export RUN --out NEW_BUNDLE  # fp32; or --quantize int8 --accuracy-budget 0.5",
            evidence=(f"parts kept in fp32: {', '.join(found.get('fp32_parts', [])) or 'none'}",),
            numbers={"lost": lost, "recorded": recorded, "fp32": wanted, "split": split},
        )
    ]
