"""Files of texts in, files of answers out: text, JSON lines and Parquet, row by row, in bounded memory."""

from __future__ import annotations
