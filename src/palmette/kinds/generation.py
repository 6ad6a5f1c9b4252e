"""Any text for a text or a pair: summaries, abstractive answers. For families that write; no head predicts it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from palmette import metrics, sums
from palmette.config import TaskConfig
from palmette.errors import ConfigError
from palmette.kinds.base import UNREADABLE, Array, Form, Kind, LabelError, RawLabel
from palmette.text import Row
from palmette.types import Example, Prediction

if TYPE_CHECKING:
    from torch import Tensor, nn

References = tuple[str, ...]

# Thai, Lao, Burmese, Khmer, kana and Han put no spaces between words: there each letter counts as one.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")

_CORPUS_METRICS = ("bleu", "chrf")  # of all examples together


class Generation(Kind[References]):
    """One or several reference texts; the best match of them counts.

    Training takes the first reference. The option `instruction` says what a language model is asked to do.
    """

    inputs: ClassVar = "any"
    has_head: ClassVar = False
    metrics: ClassVar = ("rouge_l", "rouge_1", "rouge_2", "f1", "exact_match", *_CORPUS_METRICS)
    settings: ClassVar = frozenset({"options"})

    @classmethod
    def check(cls, config: TaskConfig) -> None:
        super().check(config)
        for option in config.options.keys() - {"instruction"}:
            raise ConfigError(f"options.{option}: generation has no such option; it has instruction")
        if not isinstance(config.options.get("instruction", ""), str):
            raise ConfigError("options.instruction: expected a text")
        if config.metric in _CORPUS_METRICS:
            raise ConfigError(
                f"metric: {config.metric} is of all texts together, no mean over examples, so that it has no interval; "
                "it is reported, choose another one to stand for the task"
            )

    @classmethod
    def parse(cls, raw: RawLabel, config: TaskConfig, example: Example) -> References:
        texts = (raw,) if isinstance(raw, str) else raw
        if not isinstance(texts, tuple) or not texts:
            raise LabelError(f"expected a text, or a list of reference texts, found {raw!r}"[:100])
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise LabelError(f"expected reference texts, found {text!r}"[:100])
        return tuple(" ".join(str(text).split()) for text in texts)

    @classmethod
    def fit(cls, labels: Sequence[References]) -> dict[str, Any]:
        # In words; the longest of them bounds what is written.
        return {"longest": max(len(_WORDS.findall(text)) for references in labels for text in references)}

    def targets(self, label: References, row: Row, spans: Array | None) -> dict[str, Array]:
        self._no_head()

    def head(self, width: int, dropout: float) -> nn.Module:
        self._no_head()

    def loss(self, outputs: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        self._no_head()

    def decode(self, windows: Sequence[tuple[Row, Array]], example: Example, spans: Array | None) -> Prediction:
        self._no_head()

    def _no_head(self) -> NoReturn:
        raise ConfigError(
            f"tasks.{self.task}.kind: generation is for models that write: family: text2text or causal_lm"
        )

    def score(self, gold: Sequence[References], predicted: Sequence[References]) -> dict[str, float]:
        written = [_first(found) for found in predicted]
        each = [_example_scores(references, text) for references, text in zip(gold, written, strict=True)]
        means = {name: float(np.mean([found[name] for found in each])) for name in each[0]}
        return means | metrics.bleu_chrf(gold, written)

    def parts(self, gold: Sequence[References], predicted: Sequence[References]) -> NDArray[np.float64]:
        pairs = zip(gold, predicted, strict=True)
        return sums.means([_example_scores(references, _first(found))[self.metric] for references, found in pairs])

    def difference(self, first: References, second: References) -> float:
        """One minus token F1."""
        return 0.0 if first == second else 1 - metrics.token_f1(_first(first), _first(second))

    def agrees(self, before: References, after: References, alignment: Sequence[int | None]) -> bool:
        """More than half of the words in common (token F1): how a text is put may change with its input."""
        return max(metrics.token_f1(wanted, _first(after)) for wanted in before or ("",)) > 0.5

    def render(self, prediction: Prediction, example: Example) -> dict[str, Any]:
        texts: Any = prediction.label
        return {"text": _first(texts)}

    @property
    def form(self) -> Form:
        return "text"

    def compare(self, one: References, other: References) -> list[tuple[str, str]]:
        """A word is a unit, those that only one has stand beside nothing. Of several references, the first."""
        before, after = _first(one).split(), _first(other).split()
        units: list[tuple[str, str]] = []
        for _, start, stop, begin, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            units += zip_longest(before[start:stop], after[begin:end], fillvalue="")
        return units or [("", "")]

    def instruction(self) -> str:
        return str(self.config.options.get("instruction", "Write the answer."))

    def source_text(self, example: Example) -> str:
        if example.pair is None:
            return example.text.string
        return f"{example.text.string}\n{example.pair.string}"

    def target_text(self, label: References, example: Example) -> str:
        return label[0]

    def read_text(self, output: str, example: Example) -> tuple[References, bool]:
        text = " ".join(output.split())
        return ((text,), True) if text else ((UNREADABLE,), False)


def _first(texts: References) -> str:
    """The text; of what nobody could read the empty one, which no reference is."""
    return texts[0] if texts and texts[0] != UNREADABLE else ""


def _example_scores(references: References, text: str) -> dict[str, float]:
    """The best over the references of each metric that is a mean over examples."""
    return metrics.rouge(references, text) | {
        "f1": max(metrics.token_f1(reference, text) for reference in references),
        "exact_match": max(metrics.exact_match(reference, text) for reference in references),
    }
