"""Trunk + heads: one pass of the trunk, every head over what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from palmette.batching import EMBEDDING, Batch
from palmette.heads import pool
from palmette.kinds import AnyKind
from palmette.predictor import Engine
from palmette.trunk import Trunk


class Model(nn.Module):
    """One trunk and a head per task.

    Args:
        trunk: the shared encoder.
        kinds: the tasks; each brings its head.
        dropout: in front of every head.
    """

    def __init__(self, trunk: Trunk, kinds: Mapping[str, AnyKind], *, dropout: float) -> None:
        super().__init__()
        self.trunk = trunk
        # The prefix keeps a task called `items` or `train` apart from the methods of ModuleDict.
        heads = {f"task_{task}": kind.head(trunk.width, dropout) for task, kind in kinds.items()}
        self.heads = nn.ModuleDict(heads)

    def forward(
        self, inputs: Mapping[str, Tensor], index: Mapping[str, Tensor], embedded: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The outputs of each task in `index`: [units, ...]. A task that is not in it costs nothing.

        With `embedded`, numbers of rows, the mean over their tokens as well: `EMBEDDING`, [rows asked for, width].
        """
        hidden = self.trunk(inputs)  # [rows, tokens, width]
        parts = parts_of(inputs)
        outputs = {task: self.heads[f"task_{task}"](hidden, parts, where) for task, where in index.items()}
        if embedded is not None:
            outputs[EMBEDDING] = pool(hidden.index_select(0, embedded), parts.index_select(0, embedded))
        return outputs


def parts_of(inputs: Mapping[str, Tensor]) -> Tensor:
    """Whose each token is -> [rows, tokens]: 0 padding, 1 the first text's, 2 the second's."""
    return inputs["attention_mask"] * (1 + inputs["token_type_ids"])


def to_tensors(arrays: Mapping[str, object], device: torch.device) -> dict[str, Tensor]:
    """NumPy arrays -> tensors on a device."""
    return {name: torch.as_tensor(array).to(device, non_blocking=True) for name, array in arrays.items()}


def run(model: nn.Module, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """The model's outputs for all tasks of a batch."""
    outputs: dict[str, Tensor] = model(
        to_tensors(batch.inputs, device),
        to_tensors({task: part.index for task, part in batch.tasks.items()}, device),
        torch.arange(len(batch.rows), device=device) if batch.embed else None,
    )
    return outputs


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which the model computes: bf16 where the run trained in it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def torch_engine(model: Model, device: torch.device, precision: str) -> Engine:
    """The model as a predictor calls it: batch -> outputs as arrays."""

    def engine(batch: Batch) -> dict[str, Any]:
        with torch.inference_mode(), autocast(device, precision):
            outputs = run(model, batch, device)
        return {task: output.float().cpu().numpy() for task, output in outputs.items()}

    return engine


def pad_id(model: Model) -> int:
    """Vocabulary id of padding; masked, so that any id will do where the trunk names none."""
    return int(getattr(model.trunk.encoder.config, "pad_token_id", None) or 0)
