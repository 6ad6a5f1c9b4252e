"""How well words are found in raw text: word F1 of `palmette.words.find_words` on EWT's raw test text, target 0.975.

The raw text is the `# text` comment of each sentence; a word counts as found when its character span is exactly that
of a gold word. Gold words are UD's syntactic words, located so:

1. Surface tokens (a multiword token's range line, or else the word's own form) are searched one after another in the
   raw text, each from where the last one ended.
2. A multiword token whose words' forms, joined, are its surface ("do" + "n't" = "don't") gives each word its own
   characters.
3. A multiword token whose words are spelt otherwise than its surface ("aux" = "à" + "les") is one gold word with the
   characters of the whole: its parts have no characters of their own.
4. Empty nodes (8.1) have no characters and are no gold words.

    python benchmarks/word_tokens.py               # seconds
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common

Span = tuple[int, int]


def main() -> None:
    """Measure and report."""
    default = common.data_folder() / "ud_english_ewt" / "en_ewt-ud-test.conllu"
    parser = common.parser(__doc__)
    parser.add_argument("--file", type=Path, default=default)
    parser.add_argument("--language", default="en")
    arguments = parser.parse_args()
    common.use_threads(arguments.threads)
    import conllu

    from palmette.metrics import precision_recall_f1
    from palmette.words import find_words

    correct = predicted = gold = sentences = rewritten = 0
    missed: dict[str, int] = {}
    with arguments.file.open(encoding="utf-8") as file:
        for sentence in conllu.parse_incr(file):
            raw = sentence.metadata["text"]
            wanted, merged = gold_spans(sentence, raw)
            text = find_words(raw, language=arguments.language)
            found = set(text.spans)
            correct += len(found & set(wanted))
            predicted += len(text.spans)
            gold += len(wanted)
            sentences += 1
            rewritten += merged
            for start, end in set(wanted) - found:
                missed[raw[start:end]] = missed.get(raw[start:end], 0) + 1
    scores = precision_recall_f1(correct, predicted, gold)
    common.report(
        "word_tokens",
        f"{arguments.file.stem}, raw text",
        arguments=arguments,
        headline={"word F1": round(scores["f1"], 4)},
        targets={"word F1": common.Target(round(scores["f1"], 5), 0.975)},
        details={
            **{name: round(value, 5) for name, value in scores.items()},
            "sentences": sentences,
            "gold_words": gold,
            "predicted_words": predicted,
            "correct": correct,
            "multiword_tokens_counted_as_one": rewritten,
            "most_missed": dict(sorted(missed.items(), key=lambda item: (-item[1], item[0]))[:20]),
        },
    )


def gold_spans(sentence: Any, raw: str) -> tuple[list[Span], int]:
    """The spans of a sentence's words in its raw text; and how many multiword tokens count as one word (rule 3)."""
    spans: list[Span] = []
    end = merged = 0
    for surface, forms in _surface_tokens(sentence):
        start = raw.find(surface, end)
        if start < 0:
            raise SystemExit(f"{sentence.metadata.get('sent_id')}: {surface!r} is not in the rest of {raw[end:]!r}")
        end = start + len(surface)
        if "".join(forms) == surface:
            place = start
            for form in forms:
                spans.append((place, place + len(form)))
                place += len(form)
        else:
            spans.append((start, end))
            merged += 1
    return spans, merged


def _surface_tokens(sentence: Any) -> Iterator[tuple[str, list[str]]]:
    """(surface, forms of its words) of each surface token."""
    forms = {token["id"]: token["form"] for token in sentence if isinstance(token["id"], int)}
    covered = 0
    for token in sentence:
        number = token["id"]
        if isinstance(number, int):
            if number > covered:
                yield token["form"], [token["form"]]
        elif number[1] == "-":
            covered = number[2]
            yield token["form"], [forms[word] for word in range(number[0], number[2] + 1)]


if __name__ == "__main__":
    main()
