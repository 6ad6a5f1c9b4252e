"""What heads read: padding never, and of a pair which text is whose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from palmette.heads import PairHead, SpanHead, TextHead, pool

WIDTH = 8


def rows(*parts: list[int]) -> tuple[Tensor, Tensor]:
    """Hidden vectors and parts of rows, padded to the longest."""
    torch.manual_seed(0)
    longest = max(map(len, parts))
    owner = torch.tensor([row + [0] * (longest - len(row)) for row in parts])
    return torch.randn(len(parts), longest, WIDTH), owner


def test_a_mean_is_over_what_is_wanted_and_0_over_nothing() -> None:
    hidden, parts = rows([1, 1, 2], [1])
    assert torch.allclose(pool(hidden, parts)[0], hidden[0].mean(0))
    assert torch.allclose(pool(hidden, parts)[1], hidden[1, 0])
    assert torch.allclose(pool(hidden, parts == 2)[0], hidden[0, 2])
    assert not pool(hidden, parts == 2)[1].any()


@pytest.mark.parametrize("head", [TextHead(WIDTH, 3, dropout=0.0), PairHead(WIDTH, 3, dropout=0.0)])
def test_what_stands_at_padding_changes_nothing(head: nn.Module) -> None:
    hidden, parts = rows([1, 1, 2, 2, 2], [1, 2])
    index = torch.tensor([1, 0])
    before = head(hidden, parts, index)
    hidden[parts == 0] = 100.0
    assert torch.equal(head(hidden, parts, index), before)
    assert torch.allclose(before[0], head(hidden[1:, :2], parts[1:, :2], torch.tensor([0]))[0], atol=1e-6)


def test_a_pair_is_compared_text_by_text() -> None:
    head = PairHead(WIDTH, 1, dropout=0.0)
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.weight[0, WIDTH : 2 * WIDTH] = -1  # the absolute difference of the two means
        head.output.bias.zero_()
    hidden, parts = rows([1, 2, 2], [1, 2, 2])
    hidden[0, 1:] = hidden[0, 0]  # the second text is as the first
    same, other = head(hidden, parts, torch.arange(2)).squeeze(-1).tolist()
    assert same == pytest.approx(0, abs=1e-6)
    assert other < -1


def test_spans_never_lie_in_padding() -> None:
    hidden, parts = rows([1, 2, 2], [1])
    scores = SpanHead(WIDTH, dropout=0.0)(hidden, parts, torch.arange(2))
    assert (scores[1, 1:] < -1e30).all()
    assert (scores[0] > -1e30).all()
