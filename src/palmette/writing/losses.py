"""The loss of tokens that are to be written."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import cross_entropy


def written_losses(
    logits: Tensor, target: Tensor, target_mask: Tensor, tasks: Mapping[str, Tensor], units: Mapping[str, float]
) -> dict[str, Tensor]:
    """Cross-entropy of each token to be written, summed over a task's rows / its tokens in the update.

    Args:
        logits: [rows, places, vocabulary]
        target: [rows, places]
        target_mask: [rows, places] which of them count.
        tasks: the rows of each task.
        units: the tokens of each task in the update.
    """
    device = logits.device
    counted = target_mask.bool().to(device)
    # Tokens first: a softmax over the vocabulary in any other place of memory takes three times as long.
    losses = cross_entropy(logits[counted].float(), target.to(device)[counted], reduction="none")  # [tokens]
    each = losses.new_zeros(len(target)).index_add(0, counted.nonzero()[:, 0], losses)  # [rows]
    return {task: each[rows.to(device)].sum() / units[task] for task, rows in tasks.items()}
