"""Who is answered by the candidate: a share of the keys, the same ones each time."""

from __future__ import annotations

import hashlib


def position(key: str, digest: str) -> float:
    """Where a key stands in [0, 1) for a candidate.

    By SHA-256, so that servers, restarts and machines agree; the candidate's digest is hashed with it, so that not the
    same users are the first to try every candidate.
    """
    found = hashlib.sha256(f"{digest}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(found[:7]) / 2**56  # 56 bits: a double holds them exactly, and stays below 1


def chosen(key: str, digest: str, share: float) -> bool:
    """Whether a key is among the share that meets the candidate.

    A larger share adds keys and takes none away.
    """
    return position(key, digest) < share
