"""The checks that come with Palmette: a capability each, in a few lines. Their words are English."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from palmette.kinds import AnyKind
from palmette.operate.behaviour import vocabulary
from palmette.operate.behaviour.base import Case, Check, Edit, Expectation, Material, Moved, certainty, replaced
from palmette.types import Answer, Example, Prediction, Text

_LETTERS = 5  # of the shortest word that gets a typo: shorter ones become other words


class Typo(Edit):
    """Two neighbouring letters change places."""

    name = "typo"
    description = "two letters inside one word change places; the answer must stay"

    def edit(self, words: tuple[str, ...], rng: np.random.Generator) -> Moved | None:
        """In a word of five letters or more."""
        places = [n for n, word in enumerate(words) if len(word) >= _LETTERS and word.isalpha()]
        if not places:
            return None
        place = int(rng.choice(places))
        word = words[place]
        # The first and the last letter stay: readers hardly notice (Rawlinson 1976).
        swaps = [n for n in range(1, len(word) - 2) if word[n] != word[n + 1]]
        if not swaps:
            return None
        at = int(rng.choice(swaps))
        new = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        return replaced(words, place, 1, [new], f"{word} -> {new}")


class LowerCase(Edit):
    """All letters are small."""

    name = "lower_case"
    description = "the text in small letters; the answer must stay"

    def edit(self, words: tuple[str, ...], rng: np.random.Generator) -> Moved | None:
        """Where there is a capital."""
        return _recased(words, tuple(word.lower() for word in words), "small letters")


class UpperCase(Edit):
    """All letters are capitals."""

    name = "upper_case"
    description = "the text in capitals; the answer must stay"

    def edit(self, words: tuple[str, ...], rng: np.random.Generator) -> Moved | None:
        """Where there is a small letter."""
        return _recased(words, tuple(word.upper() for word in words), "capitals")


def _recased(words: tuple[str, ...], new: tuple[str, ...], note: str) -> Moved | None:
    return Moved(new, tuple(range(len(words))), note) if new != words else None


class Punctuation(Edit):
    """The mark at the end goes, or one comes."""

    name = "punctuation"
    description = "the full stop at the end is taken away, or added; the answer must stay"

    def edit(self, words: tuple[str, ...], rng: np.random.Generator) -> Moved | None:
        """A question mark or an exclamation mark says something, and stays."""
        if not words or words[-1] in {"?", "!"}:
            return None
        if words[-1] == ".":
            return replaced(words, len(words) - 1, 1, (), "without the full stop") if len(words) > 1 else None
        return replaced(words, len(words), 0, ["."], "with a full stop")


class WhiteSpace(Check):
    """Raw text with more white space."""

    name = "white_space"
    expectation: Expectation = "invariance"
    description = "raw text with two spaces between words and a line break at its end; the answer must stay"

    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """Single texts only: each model finds the words itself."""
        for example in material.examples:
            if example.pair is None and example.text.words:
                raw = example.text.string
                yield Case("  ".join(raw.split()) + "\n", " ".join(raw.split()), note="more white space")


class NameSwap(Check):
    """An entity becomes another of its type."""

    name = "name_swap"
    expectation: Expectation = "invariance"
    description = "an entity is replaced by another of the same type (by the data's own labels); the answer must stay"

    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """One for each example in which some task labels an entity, or that has one of our first names."""
        for example in material.examples:
            words = example.text.words
            spans = [span for span in material.spans(example) if len(material.entities.get(span[2], ())) > 1]
            if spans:
                start, stop, label = spans[int(rng.integers(len(spans)))]
                old = words[start:stop]
                others = [entity for entity in material.entities[label] if entity != old]
            else:
                places = [n for n, word in enumerate(words) if word in vocabulary.FIRST_NAMES]
                if not places:
                    continue
                start, stop = places[0], places[0] + 1
                old = words[start:stop]
                others = [(name,) for name in vocabulary.FIRST_NAMES if (name,) != old]
            new = others[int(rng.integers(len(others)))]
            yield replaced(words, start, stop - start, new, f"{' '.join(old)} -> {' '.join(new)}").case(example)


class Contraction(Edit):
    """Do not, don't."""

    name = "contraction"
    description = "a verb and its pronoun or `not` are contracted, or written out; the answer must stay"

    def edit(self, words: tuple[str, ...], rng: np.random.Generator) -> Moved | None:
        """The first place where there is something to contract or to write out."""
        folded = [word.lower() for word in words]
        for place in range(len(words) - 1):
            for apart, joined in vocabulary.CONTRACTIONS:
                for old, new in ((apart, joined), (joined, apart)):
                    if (folded[place], folded[place + 1]) == old:
                        # "'s" may be a genitive or "has" after a noun, never after these pronouns but for "has".
                        return replaced(words, place + 1, 1, [new[1]], f"{words[place + 1]} -> {new[1]}")
        return None


class Synonym(Edit):
    """A word becomes one that means the same."""

    name = "synonym"
    description = "a word is replaced by one of the same meaning; the answer must stay"

    def edit(self, words: tuple[str, ...], rng: np.random.Generator) -> Moved | None:
        """The first word that has one."""
        for place, word in enumerate(words):
            for one, two in vocabulary.SYNONYMS:
                new = {one: two, two: one}.get(word)
                if new is not None:
                    return replaced(words, place, 1, [new], f"{word} -> {new}")
        return None


class NeutralSentence(Edit):
    """A sentence that says nothing is added."""

    name = "neutral_sentence"
    description = "a sentence that has no bearing on it is added at the end; the answer must stay"

    def edit(self, words: tuple[str, ...], rng: np.random.Generator) -> Moved | None:
        """Behind a full stop, which is added where there is none."""
        if not words:
            return None
        added = vocabulary.NEUTRAL[int(rng.integers(len(vocabulary.NEUTRAL)))]
        stop = () if words[-1] in {".", "?", "!"} else (".",)
        return replaced(words, len(words), 0, (*stop, *added), f"+ {' '.join(added)}")


class Negation(Check):
    """A positive text is negated."""

    name = "negation"
    expectation: Expectation = "direction"
    description = "a text that is taken for positive is negated; the answer must change, or be less sure"

    def applies(self, kind: AnyKind, material: Material) -> bool:
        """To classes of which one is known to be positive."""
        return material.names.get("positive") in kind.labels

    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """`not` behind the first form of be, or a phrase in front of a noun phrase."""
        for example in material.examples:
            moved = _negated(example.text.words)
            if moved is not None and example.labels.get(kind.task) == material.names["positive"]:
                yield replace(moved.case(example), expected=material.names["positive"])

    def holds(self, kind: AnyKind, case: Case, before: Prediction | None, after: Prediction) -> bool | None:
        """Whether it is no longer taken for positive, or with less confidence; None if it was not to begin with."""
        if before is None or before.label != case.expected:
            return None
        return after.label != before.label or certainty(after) < certainty(before)


def _negated(words: tuple[str, ...]) -> Moved | None:
    folded = [word.lower() for word in words]
    if vocabulary.NEGATIONS & set(folded):
        return None  # to negate once more would be no negation
    if folded and folded[0] in {"a", "an"}:
        return replaced(words, 0, 0, ("i", "would", "not", "call", "this"), "+ i would not call this")
    for place, word in enumerate(folded):
        if word in vocabulary.COPULAS and place + 1 < len(words):
            return replaced(words, place + 1, 0, ("not",), f"{words[place]} not")
    return None


class Polarity(Check):
    """Plain praise and plain blame."""

    name = "polarity"
    expectation: Expectation = "minimal"
    description = "plain praise is positive, plain blame is negative"

    def applies(self, kind: AnyKind, material: Material) -> bool:
        """To classes of which one is known to be positive and one negative."""
        return {material.names.get("positive", ""), material.names.get("negative", "")} <= set(kind.labels)

    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """The {thing} was {adjective}."""
        for thing, (good, bad) in product(vocabulary.THINGS, zip(vocabulary.GOOD, vocabulary.BAD, strict=True)):
            for word, label in ((good, "positive"), (bad, "negative")):
                yield Case(_plain(f"the {thing} was {word} ."), expected=material.names[label], note=word)


class NegatedPolarity(Polarity):
    """Praise that is negated."""

    name = "negated_polarity"
    description = "praise with `not` in front is negative"

    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """The {thing} was not {adjective}."""
        for thing, good in product(vocabulary.THINGS, vocabulary.GOOD):
            yield Case(_plain(f"the {thing} was not {good} ."), expected=material.names["negative"], note=f"not {good}")


class PlainNames(Check):
    """People and places in plain sentences."""

    name = "plain_names"
    expectation: Expectation = "minimal"
    description = "`Anna Smith lives in Paris.`: the person and the place are found, and nothing else"

    def applies(self, kind: AnyKind, material: Material) -> bool:
        """To spans of people and places."""
        wanted = {material.names.get("person", ""), material.names.get("place", "")}
        return {f"B-{name}" for name in wanted} <= set(kind.labels)

    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """Names of people of all kinds of origin, and places."""
        person, place = material.names["person"], material.names["place"]
        for first, last, where in product(vocabulary.FIRST_NAMES, vocabulary.LAST_NAMES[::3], vocabulary.PLACES[::2]):
            text = _plain(f"{first} {last} lives in {where} .")
            tags = (f"B-{person}", f"I-{person}", "O", "O", f"B-{place}", "O")
            yield Case(text, expected=tags, note=f"{first} {last}, {where}")


_SENTENCES = (
    ("the cat sleeps .", "DET NOUN VERB PUNCT"),
    ("she reads a long book .", "PRON VERB DET ADJ NOUN PUNCT"),
    ("they quickly opened the door .", "PRON ADV VERB DET NOUN PUNCT"),
    ("we will visit the old house and the garden .", "PRON AUX VERB DET ADJ NOUN CCONJ DET NOUN PUNCT"),
    ("two dogs ran in the park .", "NUM NOUN VERB ADP DET NOUN PUNCT"),
    ("Maria lives in London .", "PROPN VERB ADP PROPN PUNCT"),
)


class PlainTags(Check):
    """Words whose part of speech nobody doubts."""

    name = "plain_tags"
    expectation: Expectation = "minimal"
    description = "plain sentences with words of one part of speech (UPOS) are tagged without an error"

    def applies(self, kind: AnyKind, material: Material) -> bool:
        """To universal parts of speech."""
        return {tag for _, tags in _SENTENCES for tag in tags.split()} <= set(kind.labels)

    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """Six sentences."""
        for sentence, tags in _SENTENCES:
            yield Case(_plain(sentence), expected=tuple(tags.split()), note=tags)


class PlainQuestion(Check):
    """A question whose answer stands in a passage of two sentences."""

    name = "plain_question"
    expectation: Expectation = "minimal"
    description = "`Where does Anna live?` is answered from a passage that says it of Anna and of somebody else"

    def applies(self, kind: AnyKind, material: Material) -> bool:
        """To questions about a passage."""
        return kind.config.kind == "extractive_qa"

    def cases(self, kind: AnyKind, material: Material, rng: np.random.Generator) -> Iterator[Case]:
        """Pairs of people and places."""
        names, places = vocabulary.FIRST_NAMES, vocabulary.PLACES
        for number, name in enumerate(names):
            for step in range(1, 5):
                other, where, elsewhere = names[number - step], places[number], places[number - step]
                passage = f"{other} lives in {elsewhere} . {name} lives in {where} ."
                expected = (Answer(passage.index(where, len(other) + 1), where),)
                example = Example(_plain(f"where does {name} live ?").text, {}, pair=_plain(passage).text)
                yield Case(example, expected=expected, note=where)


def _plain(sentence: str) -> Example:
    return Example(Text(tuple(sentence.split())), {})


CHECKS: tuple[Check, ...] = (
    Typo(),
    LowerCase(),
    UpperCase(),
    Punctuation(),
    WhiteSpace(),
    NameSwap(),
    Contraction(),
    Synonym(),
    NeutralSentence(),
    Negation(),
    Polarity(),
    NegatedPolarity(),
    PlainNames(),
    PlainTags(),
    PlainQuestion(),
)
