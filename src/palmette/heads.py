"""The layers that kinds put on the trunk.

Each takes (hidden [rows, tokens, width], parts [rows, tokens], index [units]). Parts say whose a token is: 0 padding,
1 the first text's, 2 the second's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pool(hidden: Tensor, wanted: Tensor) -> Tensor:
    """Average [rows, tokens, width] over the tokens that are wanted (true or not 0) -> [rows, width]; 0 without any."""
    weights = (wanted != 0).unsqueeze(-1).to(hidden.dtype)  # [rows, tokens, 1]
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


class WordHead(nn.Module):
    """A linear layer on the first subword of each word -> [words, labels]. `index` counts rows x tokens, flattened."""

    def __init__(self, width: int, labels: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, labels)

    def forward(self, hidden: Tensor, parts: Tensor, index: Tensor) -> Tensor:
        words = hidden.flatten(0, 1).index_select(0, index)  # [words, width]
        logits: Tensor = self.output(self.dropout(words))
        return logits


class TextHead(nn.Module):
    """A linear layer on the mean of a row's tokens -> [texts, outputs]. `index` is row numbers."""

    def __init__(self, width: int, outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, outputs)

    def forward(self, hidden: Tensor, parts: Tensor, index: Tensor) -> Tensor:
        pooled = pool(hidden.index_select(0, index), parts.index_select(0, index))  # [texts, width]
        logits: Tensor = self.output(self.dropout(pooled))
        return logits


class PairHead(nn.Module):
    """A linear layer on what two texts have in common and what not -> [pairs, outputs]. `index` is row numbers.

    Both stand in one row and read each other. The layer sees the mean over all tokens, and of the means u and v over
    each text's tokens |u - v| and u * v (Mou et al. 2016; Conneau et al. 2017): what a trunk that was trained on
    sentence similarity knows of a pair is linear in them.
    """

    def __init__(self, width: int, outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(3 * width, outputs)

    def forward(self, hidden: Tensor, parts: Tensor, index: Tensor) -> Tensor:
        rows, owner = hidden.index_select(0, index), parts.index_select(0, index)
        first, second = pool(rows, owner == 1), pool(rows, owner == 2)  # [pairs, width]
        features = torch.cat((pool(rows, owner), (first - second).abs(), first * second), dim=-1)
        logits: Tensor = self.output(self.dropout(features))
        return logits


class SpanHead(nn.Module):
    """Start and end scores of each token -> [texts, tokens, 2]; padding scores far below everything."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, 2)

    def forward(self, hidden: Tensor, parts: Tensor, index: Tensor) -> Tensor:
        rows = hidden.index_select(0, index)  # [texts, tokens, width]
        logits: Tensor = self.output(self.dropout(rows)).float()
        padding = parts.index_select(0, index).unsqueeze(-1) == 0  # [texts, tokens, 1]
        return logits.masked_fill(padding, torch.finfo(torch.float32).min / 4)
