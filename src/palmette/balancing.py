"""How task losses become one update. The one place for methods to come (uncertainty, FAMO, TorchJD's aggregators)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from palmette.batching import Batch
from palmette.kinds import AnyKind


def losses(
    outputs: Mapping[str, Tensor],
    batch: Batch,
    kinds: Mapping[str, AnyKind],
    units: Mapping[str, float],
    targets: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Each task's part of the update's loss: its sum over this batch / its labelled units in the whole update.

    Parts of an update (accumulation, processes) add up to the same loss and gradient as the update in one piece.

    Args:
        outputs: of the model, for the tasks of this batch.
        batch: a part of the update.
        kinds: the tasks.
        units: labelled units of each task in the whole update, all parts and processes together.
        targets: the batch's targets as tensors.
    """
    # A window may answer for no word; where it is all that an update has of a task, 0 / 0 would ruin every weight.
    return {task: kinds[task].loss(outputs[task], targets[task]) / (units[task] or 1.0) for task in batch.tasks}


def combine(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Equal balancing: the sum of the tasks' losses, each times its static weight: a scalar."""
    terms = [loss * weights[task] for task, loss in parts.items()]
    return sum(terms[1:], start=terms[0])
