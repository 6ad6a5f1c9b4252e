"""Token ids of several lengths as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Rows of ids -> [rows, longest], padded behind."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.long)


def mask_of(rows: Sequence[Sequence[int]]) -> Tensor:
    """Which tokens of padded rows are real: [rows, longest]."""
    lengths = torch.tensor([len(row) for row in rows])
    return (torch.arange(int(lengths.max())) < lengths[:, None]).long()
