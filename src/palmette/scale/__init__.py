"""More than one process: a server's replicas, and the answers of a large file, on a Ray cluster."""

from __future__ import annotations
