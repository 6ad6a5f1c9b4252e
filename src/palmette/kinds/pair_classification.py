"""One class for a pair of texts: entailment, paraphrase, duplicate questions."""

from __future__ import annotations

from typing import ClassVar, Literal

from palmette.kinds.text_classification import TextClassification


class PairClassification(TextClassification):
    """As `text_classification`, over both texts in one row, the second one windowed where it is long."""

    inputs: ClassVar[Literal["text", "pair", "any"]] = "pair"
