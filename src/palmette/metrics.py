"""Predictions -> numbers. No torch. Every function takes gold first, predictions second, aligned by example.

Scores are fractions in [0, 1] (correlations and MCC in [-1, 1]). scikit-learn and SciPy compute what they have;
spans are counted here, because seqeval, the field's reference, is no longer maintained (tests compare with it).
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from palmette.errors import MissingExtraError
from palmette.types import Answer

Span = tuple[int, int, str]  # first word, last word + 1, type


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of equal labels; 0 where there are none (texts without words)."""
    if not gold:
        return 0.0
    return sum(wanted == found for wanted, found in zip(gold, predicted, strict=True)) / len(gold)


def precision_recall_f1(correct: int, predicted: int, gold: int) -> dict[str, float]:
    """Precision, recall and F1 from counts; 0 where a denominator is 0, as conlleval does."""
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    f1 = 2 * correct / (predicted + gold) if predicted + gold else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def sets_f1(gold: Iterable[Iterable[object]], predicted: Iterable[Iterable[object]]) -> dict[str, float]:
    """Micro-averaged precision, recall and F1 of sets (spans of a sentence, labels of a text)."""
    correct = total_gold = total_predicted = 0
    for gold_items, predicted_items in zip(map(set, gold), map(set, predicted), strict=True):
        correct += len(gold_items & predicted_items)
        total_gold += len(gold_items)
        total_predicted += len(predicted_items)
    return precision_recall_f1(correct, total_predicted, total_gold)


def macro_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Unweighted mean over the classes that occur of each class's F1 (scikit-learn)."""
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, average="macro", zero_division=0.0))


def mcc(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Matthews correlation coefficient, multi-class (Gorodkin 2004; scikit-learn); 0 where all is one class."""
    from sklearn.metrics import matthews_corrcoef

    if len({*gold, *predicted}) < 2:
        return 0.0
    return float(matthews_corrcoef(gold, predicted))


def pearson(gold: Sequence[float], predicted: Sequence[float]) -> float:
    """Pearson's correlation; 0 where either side is constant and it is not defined."""
    from scipy.stats import pearsonr

    if len(gold) < 2 or _constant(gold) or _constant(predicted):
        return 0.0
    return float(pearsonr(gold, predicted).statistic)


def spearman(gold: Sequence[float], predicted: Sequence[float]) -> float:
    """Spearman's rank correlation; 0 where either side is constant and it is not defined."""
    from scipy.stats import spearmanr

    if len(gold) < 2 or _constant(gold) or _constant(predicted):
        return 0.0
    return float(spearmanr(gold, predicted).statistic)


def _constant(values: Sequence[float]) -> bool:
    return float(np.ptp(np.asarray(values, dtype=float))) < 1e-12


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces: as SQuAD compares (Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad(gold: Sequence[Sequence[Answer]], predicted: Sequence[Sequence[Answer]]) -> dict[str, float]:
    """SQuAD's exact match and token F1, each the best over the references; no answer is the empty string."""
    exact = overlap = 0.0
    for references, answers in zip(gold, predicted, strict=True):
        guess = normalize_answer(answers[0].text) if answers else ""
        # Official evaluation leaves out references that normalise to nothing, and takes "" when none is left.
        wanted = [text for answer in references if (text := normalize_answer(answer.text))] or [""]
        exact += max(float(guess == text) for text in wanted)
        overlap += max(_token_f1(text.split(), guess.split()) for text in wanted)
    return {"exact_match": exact / len(gold), "f1": overlap / len(gold)}


def exact_match(gold: str, predicted: str) -> float:
    """Whether two texts are equal, normalised as SQuAD's; where nothing is left of either, as they are but for case."""
    wanted, found = normalize_answer(gold), normalize_answer(predicted)
    if not wanted and not found:
        wanted, found = gold.strip().casefold(), predicted.strip().casefold()
    return float(wanted == found)


def token_f1(gold: str, predicted: str) -> float:
    """Token F1 of two texts, normalised as SQuAD's; where nothing is left of either, their exact match."""
    wanted, found = normalize_answer(gold).split(), normalize_answer(predicted).split()
    return _token_f1(wanted, found) if wanted or found else exact_match(gold, predicted)


def rouge(references: Sequence[str], text: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L F1 with Porter's stemmer (Lin 2004; rouge-score), each the best over the references."""
    scorer = _rouge_scorer()
    found = scorer.score_multi(list(references), text)
    names = {"rouge_l": "rougeL", "rouge_1": "rouge1", "rouge_2": "rouge2"}
    return {name: float(found[theirs].fmeasure) for name, theirs in names.items()}


@cache
def _rouge_scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError("rouge-score", "text") from error
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def bleu_chrf(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU (Papineni et al. 2002) and chrF2 (Popović 2015) by sacrebleu's defaults, as fractions."""
    try:
        from sacrebleu import corpus_bleu, corpus_chrf
    except ImportError as error:
        raise MissingExtraError("sacrebleu", "text") from error
    most = max(map(len, gold))
    columns: Any = [[texts[n] if n < len(texts) else None for texts in gold] for n in range(most)]
    bleu = corpus_bleu(list(predicted), columns).score
    return {"bleu": bleu / 100, "chrf": corpus_chrf(list(predicted), columns).score / 100}


def _token_f1(gold: list[str], predicted: list[str]) -> float:
    if not gold or not predicted:
        return float(gold == predicted)
    return precision_recall_f1((Counter(gold) & Counter(predicted)).total(), len(predicted), len(gold))["f1"]


def per_label(
    gold: Iterable[Iterable[tuple[object, str]]], predicted: Iterable[Iterable[tuple[object, str]]]
) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each label, from (place, label) items of each example."""
    counts: dict[str, list[int]] = {}
    for gold_items, predicted_items in zip(map(set, gold), map(set, predicted), strict=True):
        for column, items in enumerate((gold_items & predicted_items, predicted_items, gold_items)):
            for _, label in items:
                counts.setdefault(label, [0, 0, 0])[column] += 1
    return {label: {**precision_recall_f1(*counts[label]), "support": counts[label][2]} for label in sorted(counts)}


def relative_to_best(histories: Mapping[str, Sequence[float]]) -> list[float]:
    """Mean over tasks of each evaluation's metric divided by that task's best: the default rule of selection.

    Args:
        histories: each task's metric at every evaluation, oldest first; equally long.

    Returns:
        One score an evaluation, 1.0 where every task is at its own best. A value below 0 (a correlation) counts as 0.
        A task whose metric was never above 0 has no ratio and is left out (all tasks are: all 0).
    """
    ratios = []
    for values in histories.values():
        best = max((value for value in values if not math.isnan(value)), default=0.0)
        if best > 0:
            ratios.append([0.0 if math.isnan(value) else max(value, 0.0) / best for value in values])
    if not ratios:
        return [0.0] * max(map(len, histories.values()), default=0)
    return [sum(column) / len(column) for column in zip(*ratios, strict=True)]
