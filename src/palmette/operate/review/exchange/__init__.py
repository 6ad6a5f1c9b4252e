"""Items as files, for other tools and for training, and what people did there as corrections. One module a format."""

from __future__ import annotations

from palmette.operate.review.exchange.argilla import Argilla
from palmette.operate.review.exchange.base import Entry, Format, Said
from palmette.operate.review.exchange.label_studio import LabelStudio
from palmette.operate.review.exchange.lines import Columns, Conllu, Jsonl

FORMATS: dict[str, Format] = {
    "conllu": Conllu(),
    "columns": Columns(),
    "jsonl": Jsonl(),
    "argilla": Argilla(),
    "label-studio": LabelStudio(),
}

__all__ = ["FORMATS", "Entry", "Format", "Said"]
