"""Which number format this hardware trains fast in. Measured, because flags lie: a CPU may emulate bf16."""

from __future__ import annotations

import time
from statistics import median

import torch

# bf16 must win clearly: it costs accuracy in the last digits, and casts around small layers eat a small gain.
_WORTH_IT = 1.3
_ROUNDS = 5


def choose_precision(wanted: str, device: torch.device) -> str:
    """`wanted`, or for `auto` the faster of "fp32" and "bf16" on this device."""
    if wanted != "auto":
        return wanted
    if device.type not in {"cpu", "cuda"}:
        return "fp32"
    return "bf16" if bf16_speedup(device) >= _WORTH_IT else "fp32"


def bf16_speedup(device: torch.device) -> float:
    """How many times faster a small transformer layer trains under bf16 autocast than in fp32 here."""
    state = torch.get_rng_state()  # initial weights draw from it
    layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, dropout=0.0, batch_first=True).to(device)
    inputs = torch.ones(16, 32, 384, device=device)

    def seconds(*, bf16: bool) -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            layer(inputs).sum().backward()
        layer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    try:
        for bf16 in (False, True):
            seconds(bf16=bf16)  # the first run of each compiles and allocates
        pairs = [(seconds(bf16=False), seconds(bf16=True)) for _ in range(_ROUNDS)]
    finally:
        torch.set_rng_state(state)
    return median(plain for plain, _ in pairs) / median(half for _, half in pairs)
