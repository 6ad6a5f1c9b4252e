"""The layers that kinds put on the trunk.

Each takes (hidden [rows, tokens, width], mask [rows, tokens], index [units]).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average [rows, tokens, width] over real tokens -> [rows, width]."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # [rows, tokens, 1]
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


class WordHead(nn.Module):
    """A linear layer on the first subword of each word -> [words, labels]. `index` counts rows x tokens, flattened."""

    def __init__(self, width: int, labels: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, labels)

    def forward(self, hidden: Tensor, mask: Tensor, index: Tensor) -> Tensor:
        words = hidden.flatten(0, 1).index_select(0, index)  # [words, width]
        logits: Tensor = self.output(self.dropout(words))
        return logits


class TextHead(nn.Module):
    """A linear layer on the mean of a row's tokens -> [texts, outputs]. `index` is row numbers."""

    def __init__(self, width: int, outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, outputs)

    def forward(self, hidden: Tensor, mask: Tensor, index: Tensor) -> Tensor:
        pooled = pool(hidden.index_select(0, index), mask.index_select(0, index))  # [texts, width]
        logits: Tensor = self.output(self.dropout(pooled))
        return logits


class SpanHead(nn.Module):
    """Start and end scores of each token -> [texts, tokens, 2]; padding scores far below everything."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, 2)

    def forward(self, hidden: Tensor, mask: Tensor, index: Tensor) -> Tensor:
        rows = hidden.index_select(0, index)  # [texts, tokens, width]
        logits: Tensor = self.output(self.dropout(rows)).float()
        padding = mask.index_select(0, index).unsqueeze(-1) == 0  # [texts, tokens, 1]
        return logits.masked_fill(padding, torch.finfo(torch.float32).min / 4)
