"""Words of raw text by spaCy's rules, which are data: training reads them from spaCy, serving from a file. No torch.

Training and serving find words by the same lines below, with the standard library alone. spaCy itself is imported where
the rules of a language are read, and for languages whose words its affix rules do not find (Chinese, Japanese, …).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from palmette.errors import ConfigError, MissingExtraError
from palmette.types import Text

# Affix rules take quadratic time on one unbroken chunk: 100 kB of "(." runs for minutes. Longer chunks than any word
# of prose are cut by a plain rule instead.
_LONG_CHUNK = re.compile(r"\S{257,}")
_PLAIN_WORDS = re.compile(r"\w+|([^\w\s])\1*")
_LONG_ADDRESS = re.compile(r"<?(?:https?://|ftp://|www\.)[\w.-]+\.\w+(?:[/?#:][^\s<>]{0,4000})?>?")
_RUNNING = frozenset("!?.=*-_~#$<>+^|")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
# spaCy reads a text as runs of white space and of anything else; a space that follows a word belongs to neither.
_CHUNKS = re.compile(r"\S+|(?<!\S)\s+|(?<=\S)[^\S ]\s*")
# Chunks whose words are remembered. Most of a text are short and come again; what is longer would fill the memory.
_REMEMBERED = 16_384
_LONGEST_REMEMBERED = 40
# spaCy remembers every word it ever saw; a stream of any length must not fill the memory.
_MOST_STRINGS = 500_000


def well_formed(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair (JSON can bring them), which no tokenizer takes."""
    return _SURROGATES.sub("\ufffd", text)


# --- rules ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AffixRules:
    """What spaCy's tokenizer knows of a language, in regular expressions (None: no match) and a table.

    Attributes:
        prefix, suffix: what is taken off the ends of a chunk, one after another.
        infix: where the rest is cut.
        token_match: what is a word as it stands, affixes included.
        url_match: what is a word when its affixes are off.
        special_cases: strings that are cut in a way of their own: {"don't": ("do", "n't")}.
    """

    prefix: str | None
    suffix: str | None
    infix: str | None
    token_match: str | None
    url_match: str | None
    special_cases: Mapping[str, tuple[str, ...]] = field(repr=False)


# Which method of a compiled pattern spaCy holds for each.
_METHODS = {
    "prefix": ("prefix_search", "search"),
    "suffix": ("suffix_search", "search"),
    "infix": ("infix_finditer", "finditer"),
    "token_match": ("token_match", "match"),
    "url_match": ("url_match", "match"),
}


@dataclass(frozen=True)
class WordRules:
    """How words are found in raw text of a language.

    Attributes:
        language: spaCy's code.
        affixes: its rules; None where only spaCy itself can find the words, which needs the extra `spacy`.
    """

    language: str
    affixes: AffixRules | None

    @classmethod
    def of_language(cls, language: str) -> WordRules:
        """Read the rules from spaCy.

        Raises:
            ConfigError: spaCy has no rules for the language, or misses a package for it.
            MissingExtraError: spaCy is not installed.
        """
        return cls(language, _read_affixes(_spacy_tokenizer(language)))

    def as_json(self) -> dict[str, Any]:
        """As an object for JSON: the same for the same rules."""
        if self.affixes is None:
            return {"language": self.language, "affixes": None}
        affixes: dict[str, Any] = {name: getattr(self.affixes, name) for name in _METHODS}
        affixes["special_cases"] = {text: list(cut) for text, cut in sorted(self.affixes.special_cases.items())}
        return {"language": self.language, "affixes": affixes}

    @classmethod
    def from_json(cls, data: Any) -> WordRules:
        """The rules that `as_json` gave.

        Raises:
            ValueError: the data is malformed; the message begins with the key.
        """
        _check_keys(data, "word rules", {"language", "affixes"})
        language = _checked(data["language"], "language", str)
        affixes = data["affixes"]
        if affixes is None:
            return cls(language, None)
        _check_keys(affixes, "affixes", {*_METHODS, "special_cases"})
        patterns = {name: _parse_pattern(affixes[name], f"affixes.{name}") for name in _METHODS}
        return cls(language, AffixRules(**patterns, special_cases=_parse_special_cases(affixes["special_cases"])))


def _check_keys(data: Any, name: str, keys: set[str]) -> None:
    _checked(data, name, dict)
    for key in sorted(keys - data.keys()):
        raise ValueError(f"{name}: the key {key!r} is missing")
    for key in data.keys() - keys:
        raise ValueError(f"{name}: the key {key!r} is unknown")


def _checked(value: Any, name: str, wanted: type) -> Any:
    if type(value) is not wanted:
        raise ValueError(f"{name}: expected {wanted.__name__}, found {value!r}"[:200])
    return value


def _parse_pattern(data: Any, name: str) -> str | None:
    if data is None:
        return None
    try:
        re.compile(_checked(data, name, str))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{name}: is no regular expression: {error}") from error
    return str(data)


def _parse_special_cases(data: Any) -> dict[str, tuple[str, ...]]:
    _checked(data, "affixes.special_cases", dict)
    for text, cut in data.items():
        name = f"affixes.special_cases[{text!r}]"
        for piece in _checked(cut, name, list):
            if not _checked(piece, name, str):
                raise ValueError(f"{name}: a piece is empty")
        if not text or "".join(cut) != text:
            raise ValueError(f"{name}: the pieces are {cut!r}, which is not the text"[:200])
    return {text: tuple(cut) for text, cut in data.items()}


def check_language(language: str, where: str) -> None:
    """Whether spaCy knows a language at all; where it is not installed, finding words will say so.

    Raises:
        ConfigError: it does not, with where the language is given.
    """
    spec = find_spec("spacy")  # imports nothing: spaCy takes seconds, and most sources need no words found
    if spec is None or not spec.submodule_search_locations:
        return
    if re.fullmatch(r"\w+", language) and (Path(spec.submodule_search_locations[0]) / "lang" / language).is_dir():
        return
    from spacy.util import get_lang_class

    try:
        get_lang_class(language)  # by another name, or from another package
    except ImportError as error:
        raise ConfigError(f"{where}: spaCy has no word rules for {language!r}: give a code such as en") from error


def _spacy_tokenizer(language: str) -> Any:
    try:
        import spacy
    except ImportError as error:
        raise MissingExtraError("spacy", "spacy") from error
    try:
        return spacy.blank(language).tokenizer
    except ImportError as error:
        raise ConfigError(f"language: spaCy has no word rules for {language!r}: {error}") from error


def _read_affixes(tokenizer: Any) -> AffixRules | None:
    """The rules of spaCy's tokenizer as data; None where it is one of another make, or has code among its rules."""
    from spacy.attrs import ORTH, intify_attrs
    from spacy.tokenizer import Tokenizer

    if type(tokenizer) is not Tokenizer or not tokenizer.faster_heuristics:
        return None
    patterns: dict[str, str | None] = {}
    for name, (attribute, method) in _METHODS.items():
        function = getattr(tokenizer, attribute)
        pattern = getattr(function, "__self__", None)
        if function is None:
            patterns[name] = None
        elif (
            isinstance(pattern, re.Pattern)
            and function.__name__ == method
            and pattern == re.compile(pattern.pattern)  # no flags but those that it names itself
        ):
            patterns[name] = pattern.pattern
        else:
            return None
    special_cases = {
        text: tuple(intify_attrs(piece, _do_deprecated=True)[ORTH] for piece in pieces)
        for text, pieces in tokenizer.rules.items()
    }
    return AffixRules(**patterns, special_cases=special_cases)


# --- finding -------------------------------------------------------------------------------------------------------


class WordFinder:
    """Cuts raw text into words by the rules of one language.

    Args:
        rules: of the language.

    Raises:
        ConfigError: the words of the language are found by spaCy itself, which misses a package for it.
        MissingExtraError: and spaCy is not installed.
    """

    def __init__(self, rules: WordRules) -> None:
        self.rules = rules
        self._cutter = _BySpacy(rules.language) if rules.affixes is None else _ByAffixes(rules.affixes)

    def __call__(self, raw: str) -> Text:
        """Cut a string; offsets are characters of it.

        White space is never a word. An empty string has no words. The string is made `well_formed`, which keeps
        offsets.
        """
        raw = well_formed(raw)
        words: list[str] = []
        offsets: list[tuple[int, int]] = []
        end = -1
        for word, start in self._pieces(raw):
            if word.isspace():
                continue
            if start == end and _continues(words[-1], word):
                words[-1] += word
                end = start + len(word)
                offsets[-1] = (offsets[-1][0], end)
                continue
            end = start + len(word)
            words.append(word)
            offsets.append((start, end))
        return Text(words=tuple(words), raw=raw, offsets=tuple(offsets))

    def _pieces(self, raw: str) -> Iterator[tuple[str, int]]:
        """(piece, start) by the language's rules, and by a plain one where these would take too long."""
        place = 0
        for long in _LONG_CHUNK.finditer(raw) if self._cutter.by_affixes else ():
            yield from self._cut(raw[place : long.start()], place)
            if _LONG_ADDRESS.fullmatch(long.group()):
                yield long.group(), long.start()
            else:
                for match in _PLAIN_WORDS.finditer(raw, long.start(), long.end()):
                    yield match.group(), match.start()
            place = long.end()
        yield from self._cut(raw[place:], place)

    def _cut(self, text: str, base: int) -> Iterator[tuple[str, int]]:
        pieces, starts = self._cutter.cut(text)
        return zip(pieces, (base + start for start in starts) if base else starts, strict=True)


def _continues(run: str, word: str) -> bool:
    """Whether a mark goes on with a run of itself: `!!!` and `****` are one word, as in UD; `((` and quotes are not."""
    return len(word) == 1 and word in _RUNNING and run.count(word) == len(run)


@lru_cache(maxsize=8)
def _finder_of(language: str) -> WordFinder:
    return WordFinder(WordRules.of_language(language))


def find_words(raw: str, *, language: str) -> Text:
    """Cut a string into words by the rules that the installed spaCy has for `language`, read when first needed.

    Raises:
        ConfigError: spaCy has no rules for the language, or misses a package for it.
        MissingExtraError: spaCy is not installed.
    """
    return _finder_of(language)(raw)


class _BySpacy:
    """spaCy's own tokenizer."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._tokenizer = _spacy_tokenizer(language)
        from spacy.tokenizer import Tokenizer

        self.by_affixes = isinstance(self._tokenizer, Tokenizer)

    def cut(self, text: str) -> tuple[list[str], list[int]]:
        """Pieces and where each starts, white space among them."""
        if len(self._tokenizer.vocab.strings) > _MOST_STRINGS:
            self._tokenizer = _spacy_tokenizer(self._language)
        tokens = self._tokenizer(text)
        return [token.text for token in tokens], [token.idx for token in tokens]


@dataclass(slots=True)
class _Branch:
    """A place in a tree of phrases: what may follow, and whether a phrase ends here."""

    after: dict[str, _Branch] = field(default_factory=dict)
    ends: bool = False


# What a chunk is cut into, and which of the pieces begin a phrase.
_Cut = tuple[tuple[str, ...], tuple[int, ...]]


class _ByAffixes:
    """The algorithm of spaCy's tokenizer (its oddities included, for models were trained with them).

    A chunk is a special case, or loses prefixes and suffixes until it is one or has none left; the rest is a word by
    `token_match` or `url_match`, or is cut at infixes. A special case that contains an affix may so have been cut: in
    a second pass the pieces of the whole text are searched for what each such case is cut into (a *phrase*), and where
    the characters are those of a case, its own pieces stand.
    """

    by_affixes = True

    def __init__(self, rules: AffixRules) -> None:
        self._prefix = _method(rules.prefix, "search")
        self._suffix = _method(rules.suffix, "search")
        self._infixes = _method(rules.infix, "finditer")
        self._is_token = _method(rules.token_match, "match")
        self._is_url = _method(rules.url_match, "match")
        self._remembered: Callable[[str], _Cut] = lru_cache(maxsize=_REMEMBERED)(self._cut_chunk)
        self._phrases = _Branch()
        # Phrases are what the cases are cut into where there are none.
        self._special: Mapping[str, tuple[str, ...]] = {}
        for text in rules.special_cases:
            if " " in text or self._has_affix(text):
                branch = self._phrases
                for match in _CHUNKS.finditer(text):
                    for piece in self._cut_affixes(match.group()):
                        branch = branch.after.setdefault(piece, _Branch())
                branch.ends = True
        self._special = rules.special_cases

    def cut(self, text: str) -> tuple[list[str], list[int]]:
        """Pieces and where each starts, white space among them."""
        pieces: list[str] = []
        starts: list[int] = []
        openers: list[int] = []
        for match in _CHUNKS.finditer(text):
            chunk = match.group()
            found, opening = (self._remembered if len(chunk) <= _LONGEST_REMEMBERED else self._cut_chunk)(chunk)
            if opening:
                openers.extend([len(pieces) + number for number in opening])
            start = match.start()
            for piece in found:
                pieces.append(piece)
                starts.append(start)
                start += len(piece)
        phrases = self._find_phrases(pieces, openers)
        return self._replace(text, pieces, starts, phrases) if phrases else (pieces, starts)

    def _cut_chunk(self, chunk: str) -> _Cut:
        pieces = self._cut_affixes(chunk)
        return pieces, tuple(number for number, piece in enumerate(pieces) if piece in self._phrases.after)

    def _has_affix(self, text: str) -> bool:
        """Whether some affix is not empty, or an infix matches at all."""
        return bool(_length(self._prefix(text)) or _length(self._suffix(text)) or any(self._infixes(text)))

    def _cut_affixes(self, chunk: str) -> tuple[str, ...]:
        if chunk in self._special:
            return self._special[chunk]
        prefixes: list[str] = []
        suffixes: list[str] = []
        size = 0
        while chunk and len(chunk) != size:
            if self._is_token(chunk) or chunk in self._special:
                break
            size = len(chunk)
            before = _length(self._prefix(chunk))
            if before and chunk[before:] in self._special:
                prefixes.append(chunk[:before])
                chunk = chunk[before:]
                break
            # A suffix is looked for behind the prefix, but a special case before it may begin with the prefix.
            after = size - _length(self._suffix(chunk[before:]))
            if after < size and chunk[:after] in self._special:
                suffixes.append(chunk[after:])
                chunk = chunk[:after]
                break
            if before:
                prefixes.append(chunk[:before])
            if after < size:
                suffixes.append(chunk[after:])
            chunk = chunk[before:after]
        return (*prefixes, *self._cut_infixes(chunk), *reversed(suffixes))

    def _cut_infixes(self, chunk: str) -> Sequence[str]:
        """The pieces of a chunk without affixes. What looks like an infix at its very beginning is none."""
        if not chunk:
            return ()
        if chunk in self._special:
            return self._special[chunk]
        if self._is_token(chunk) or self._is_url(chunk):
            return (chunk,)
        pieces = []
        place = 0
        for match in self._infixes(chunk):
            start, end = match.span()
            if start:
                pieces += [chunk[place:start], chunk[start:end]]
                place = end
        return [piece for piece in (*pieces, chunk[place:]) if piece]

    def _find_phrases(self, pieces: Sequence[str], openers: Sequence[int]) -> list[tuple[int, int]]:
        """[start, end) of the phrases among the pieces that may be replaced, in order: none overlap."""
        found = []
        for start in openers:
            branch, end = self._phrases.after[pieces[start]], start + 1
            while True:
                if branch.ends:
                    found.append((start, end))
                following = branch.after.get(pieces[end]) if end < len(pieces) else None
                if following is None:
                    break
                branch, end = following, end + 1
        if len(found) < 2:
            return found
        # The longest first, then the first; one that loses to another still keeps its pieces from a third.
        found.sort(key=lambda phrase: (phrase[0] - phrase[1], phrase[0]))
        chosen = []
        taken: set[int] = set()
        for start, end in found:
            if start not in taken and end - 1 not in taken:
                chosen.append((start, end))
            taken.update(range(start, end))
        return sorted(chosen)

    def _replace(
        self, text: str, pieces: Sequence[str], starts: Sequence[int], phrases: Sequence[tuple[int, int]]
    ) -> tuple[list[str], list[int]]:
        """Pieces and starts with those of a special case where a phrase has its very characters."""
        replaced: list[str] = []
        places: list[int] = []
        done = 0
        for start, end in phrases:
            # The same pieces with white space between them are no special case.
            case = self._special.get(text[starts[start] : starts[end - 1] + len(pieces[end - 1])])
            if case is None:
                continue
            replaced += [*pieces[done:start], *case]
            places += starts[done:start]
            place = starts[start]
            for piece in case:
                places.append(place)
                place += len(piece)
            done = end
        return [*replaced, *pieces[done:]], [*places, *starts[done:]]


def _method(pattern: str | None, name: str) -> Any:
    return getattr(re.compile("(?!)" if pattern is None else pattern), name)


def _length(match: Any) -> int:
    """Characters of a match; none without one."""
    return match.end() - match.start() if match else 0
