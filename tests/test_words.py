"""Words are spaCy's, offsets are right, no character is lost; and none of it needs spaCy once its rules are read."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import spacy.lang
from hypothesis import example, given, settings
from hypothesis import strategies as st

from palmette.errors import ConfigError, MissingExtraError
from palmette.types import Text
from palmette.words import WordFinder, WordRules, _read_affixes, find_words, well_formed
from strategies import AWKWARD, raw_texts


@cache
def rules_of(language: str) -> WordRules:
    """As serving has them."""
    return WordRules.from_json(json.loads(json.dumps(WordRules.of_language(language).as_json())))


@cache
def finder_of(language: str) -> WordFinder:
    return WordFinder(rules_of(language))


@cache
def spacy_of(language: str) -> Any:
    return spacy.blank(language).tokenizer


def assert_as_spacy(raw: str, language: str) -> None:
    """The pieces and where they start are spaCy's, white space included, before runs of marks are joined."""
    tokens = spacy_of(language)(raw)
    pieces, starts = finder_of(language)._cutter.cut(raw)
    assert list(zip(pieces, starts, strict=True)) == [(token.text, token.idx) for token in tokens]


# --- words ---------------------------------------------------------------------------------------------------------


def assert_covers(raw: str, text: Text) -> None:
    """Every word is where its offsets say, in order, and every character outside words is white space."""
    assert text.string == raw
    end, between = 0, []
    assert text.offsets is not None
    for word, (start, stop) in zip(text.words, text.offsets, strict=True):
        assert end <= start < stop
        assert raw[start:stop] == word
        assert not word.isspace()
        between.append(raw[end:start])
        end = stop
    assert "".join([*between, raw[end:]]).strip() == ""


@pytest.mark.parametrize("language", ["en", "da", "he", "zh"])
def test_no_character_is_lost_between_words(language: str) -> None:
    @given(raw_texts)
    @settings(max_examples=80)
    @example("".join(AWKWARD))
    @example(" ".join(AWKWARD))
    @example("")
    @example("\n \u2028\x00")
    def check(raw: str) -> None:
        assert_covers(raw, find_words(raw, language=language))

    check()


@given(raw_texts, st.integers(250, 400))
@settings(max_examples=30)
def test_no_character_is_lost_in_unbroken_chunks(raw: str, repeats: int) -> None:
    long = f"{raw} {'(a.' * repeats}{raw} it's " + "\u0301x" * repeats
    assert_covers(long, find_words(long, language="en"))


def test_words_beside_a_long_chunk_are_found_by_the_same_rules() -> None:
    plain = "Mr. Smith doesn't live in the U.S. anymore."
    assert find_words(f"{plain} {'x' * 1000}", language="en").words[:-1] == find_words(plain, language="en").words


def test_a_long_chinese_sentence_is_cut_as_a_short_one_is() -> None:
    sentence = "\u6211\u4eec\u53bb\u5317\u4eac\u3002"
    assert find_words(sentence * 60, language="zh").words == find_words(sentence, language="zh").words * 60


@pytest.mark.parametrize("unit", ["x", "(.", "\U0001f600", "\u0301", "a-b/", "x'", "...", "http://"])
def test_an_endless_chunk_takes_linear_time(unit: str) -> None:
    raw = unit * (100_000 // len(unit))
    started = time.perf_counter()
    text = find_words(raw, language="en")
    assert time.perf_counter() - started < 3
    assert_covers(raw, text)


def test_chunks_just_below_the_limit_take_linear_time() -> None:
    raw = " ".join(f"{'(.' * 120}{number}" for number in range(300))
    started = time.perf_counter()
    assert_covers(raw, find_words(raw, language="en"))
    assert time.perf_counter() - started < 5


def test_half_a_surrogate_pair_keeps_offsets() -> None:
    text = find_words("so \ud83d good", language="en")
    assert text.words == ("so", "\ufffd", "good")
    assert_covers("so \ufffd good", text)
    assert well_formed("\U0001f600") == "\U0001f600"


def test_an_unknown_language_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="'qq'"):
        find_words("a", language="qq")


# --- as spaCy cuts -------------------------------------------------------------------------------------------------

# Russian and Spanish have special cases with white space inside, Turkish, Hungarian and French a token_match.
LANGUAGES = ("en", "de", "fr", "da", "af", "es", "ru", "tr", "hu", "nl", "xx")

# What special cases, affixes and their neighbours are made of.
TRICKY = (
    *("don't", "can't", "cannot", "I'm", "y'all", "o'clock", "gonna", "'s", "n't", "it's", "\u2019s", "Let's"),
    *("a.m.", "p.m.", "U.S.", "U.S.A.", "e.g.", "Mr.", "Dr.", "St.", "Co.", "z.B.", "bzw.", "f.eks.", "d.w.z."),
    *("aujourd'hui", "l'eau", "rock'n'roll", "grand-m\xe8re", "EE. UU.", "\u0438 \u0442.\u0434.", "9am", "10:30pm"),
    *(":)", ":-)", ";-(", "<3", "(:", ":'(", "xD", "\xaf\\(\u30c4)/\xaf", "\U0001f600", "\u2764\ufe0f", "C++", "c'mon"),
    *("http://x.com/a?b=c", "www.example.org", "<a@b.org>", "x.co", "https://user:pw@host:80/", "#tag", "@me", "&amp;"),
    *(
        "1,000.5",
        "$5",
        "5\u20ac",
        "10km",
        "3rd",
        "20%",
        "-3",
        "+",
        "C\xb0",
        "1/2",
        "ab-cd",
        "2019-20",
        "a/b",
        "A.B",
        "a..b",
    ),
    *(
        "(",
        ")",
        "[",
        '"',
        "\u201c",
        "\u2026",
        "..",
        "...",
        "--",
        "\u2014",
        "'",
        "''",
        "`",
        "!",
        "?!",
        "*",
        "_",
        "~",
        ",",
        ";",
        "/",
    ),
    *(" ", "  ", " ", "\n", "\n\n", "\t", "\xa0", "\r\n", "\u2028", " \n "),
)


@cache
def texts_like(language: str) -> st.SearchStrategy[str]:
    """Texts that come upon the rules of a language from every side."""
    affixes = rules_of(language).affixes
    assert affixes is not None
    piece = st.one_of(
        st.sampled_from(TRICKY),
        st.sampled_from(sorted(affixes.special_cases)),
        st.text(st.sampled_from("abAB019.,'-()\u2019/:@ \n\xe9"), max_size=4),
        raw_texts,
    )
    return st.tuples(st.sampled_from(("", "", " ")), st.lists(piece, max_size=10)).map(
        lambda both: both[0].join(both[1])
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_pieces_are_spacys(language: str) -> None:
    @given(texts_like(language))
    @settings(max_examples=150)
    @example("x--can't--y don't/won't ((U.S.)) 'cause")
    @example("I 'm a. m. a.m.. EE. UU. EE.  UU.")
    @example(" ".join(TRICKY))
    @example("".join(TRICKY[:80]))
    def check(raw: str) -> None:
        assert_as_spacy(raw, language)

    check()


@pytest.mark.parametrize("language", ["en", "da"])
def test_words_are_those_that_spacy_itself_would_find(language: str) -> None:
    """All of `find_words`, long chunks and runs of marks included, is the same whoever cuts."""
    by_spacy = WordFinder(WordRules(language, None))

    @given(texts_like(language), st.sampled_from(("", "!!!", "x" * 300, "(." * 200, f" www.x.org/{'y' * 300} ")))
    @settings(max_examples=100)
    def check(raw: str, more: str) -> None:
        assert finder_of(language)(raw + more + raw) == by_spacy(raw + more + raw)

    check()


def test_a_special_case_inside_a_chunk_is_found_in_the_second_pass() -> None:
    assert find_words("family:)", language="en").words == ("family", ":)")
    assert find_words("it's/a.m.", language="en").words == ("it's", "/", "a.m.")
    assert find_words("los EE. UU. y EE.  UU.", language="es").words == ("los", "EE. UU.", "y", "EE", ".", "UU", ".")


@pytest.mark.slow
@pytest.mark.parametrize("language", sorted(m.name for m in pkgutil.iter_modules(spacy.lang.__path__) if m.ispkg))
def test_the_rules_of_every_language_are_executed_as_spacy_does(language: str) -> None:
    try:
        rules = rules_of(language)
    except ConfigError as error:
        pytest.skip(str(error))
    assert (rules.affixes is None) == (language == "zh")
    if rules.affixes is None:
        return

    @given(texts_like(language))
    @settings(max_examples=60)
    def check(raw: str) -> None:
        assert_as_spacy(raw, language)

    check()


DATA = Path(os.environ.get("PALMETTE_DATA", Path(__file__).parents[2] / "shared" / "data"))


def comments(path: Path) -> Iterator[str]:
    """The raw sentences of a file in CoNLL style."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# text = "):
            yield line.removeprefix("# text = ")


def tweets(path: Path) -> Iterator[str]:
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        yield " ".join(line.split("\t")[0] for line in block.splitlines())


def abstracts(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield " ".join(json.loads(line)["source"])


def passages(path: Path) -> Iterator[str]:
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            yield paragraph["context"]
            yield from (question["question"] for question in paragraph["qas"])


@pytest.mark.parametrize(
    ("language", "name", "read"),
    [
        ("en", "ud_english_ewt/en_ewt-ud-test.conllu", comments),
        ("en", "ud_english_ewt/en_ewt-ud-dev.conllu", comments),
        ("en", "btc/train.conll", tweets),
        ("da", "uner_danish_ddt/da_ddt-ud-train.iob2", comments),
        ("af", "ud_afrikaans_afribooms/af_afribooms-ud-train.conllu", comments),
        ("en", "squad/xquad.en.first24articles.json", passages),
        ("en", "scitldr/dev.jsonl", abstracts),
        ("de", "btc/dev.conll", tweets),  # foreign words reach other rules
    ],
)
def test_pieces_of_corpora_are_spacys(language: str, name: str, read: Any) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not here (PALMETTE_DATA)")
    texts = list(read(path))
    assert len(texts) > 300
    for text in texts:
        assert_as_spacy(text, language)


# --- rules as data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "de", "zh"])
def test_rules_survive_json(language: str) -> None:
    rules = WordRules.of_language(language)
    text = json.dumps(rules.as_json())
    assert WordRules.from_json(json.loads(text)) == rules
    assert json.dumps(WordRules.from_json(json.loads(text)).as_json()) == text


def test_finding_words_needs_no_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = "Mr. Smith doesn't live in the U.S. anymore."
    data = WordRules.of_language("en").as_json()
    expected = find_words(raw, language="en")
    monkeypatch.setitem(sys.modules, "spacy", None)
    assert WordFinder(WordRules.from_json(data))(raw) == expected
    with pytest.raises(MissingExtraError, match=r"palmette\[spacy\]"):
        WordRules.of_language("en")
    with pytest.raises(MissingExtraError, match=r"palmette\[spacy\]"):
        WordFinder(WordRules("zh", None))


def search_for_a_token(text: str) -> re.Match[str] | None:
    return re.search("x", text)


@pytest.mark.parametrize("match", [search_for_a_token, re.compile("x").search, re.compile("x", re.IGNORECASE).match])
def test_rules_that_are_no_data_are_left_to_spacy(match: Any) -> None:
    tokenizer = spacy.blank("en").tokenizer
    assert _read_affixes(tokenizer) is not None
    tokenizer.token_match = match
    assert _read_affixes(tokenizer) is None
    tokenizer.token_match = re.compile("(?i)x").match
    assert _read_affixes(tokenizer) is not None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), None, "word rules: expected dict"),
        (("language",), 3, "language: expected str, found 3"),
        (("affixes",), [], "affixes: expected dict"),
        (("affixes", "prefix"), 3, r"affixes\.prefix: expected str"),
        (("affixes", "infix"), "(", r"affixes\.infix: is no regular expression"),
        (("affixes", "more"), None, "affixes: the key 'more' is unknown"),
        (("affixes", "special_cases"), ["a"], r"affixes\.special_cases: expected dict"),
        (("affixes", "special_cases", "ab"), "ab", r"affixes\.special_cases\['ab'\]: expected list"),
        (("affixes", "special_cases", "ab"), [1], r"affixes\.special_cases\['ab'\]: expected str"),
        (("affixes", "special_cases", "ab"), ["a", "", "b"], r"\['ab'\]: a piece is empty"),
        (("affixes", "special_cases", "ab"), ["a"], r"\['ab'\]: the pieces are \['a'\]"),
        (("affixes", "special_cases", ""), [], r"\[''\]: the pieces are"),
    ],
)
def test_malformed_rules_are_refused_by_key(path: tuple[str, ...], value: Any, message: str) -> None:
    data: Any = {"": WordRules.of_language("xx").as_json()}
    place = data
    for key in ("", *path)[:-1]:
        place = place[key]
    place[("", *path)[-1]] = value
    with pytest.raises(ValueError, match=message):
        WordRules.from_json(data[""])


@pytest.mark.parametrize("key", ["prefix", "suffix", "infix", "token_match", "url_match", "special_cases"])
def test_rules_with_a_missing_key_are_refused(key: str) -> None:
    data = WordRules.of_language("xx").as_json()
    del data["affixes"][key]
    with pytest.raises(ValueError, match=f"affixes: the key '{key}' is missing"):
        WordRules.from_json(data)


def test_patterns_that_are_missing_never_match() -> None:
    bare: dict[str, Any] = dict.fromkeys(("prefix", "suffix", "infix", "token_match", "url_match"))
    rules = WordRules.from_json({"language": "en", "affixes": {**bare, "special_cases": {"it's": ["it", "'s"]}}})
    assert WordFinder(rules)("(it's) it's a-b").words == ("(it's)", "it", "'s", "a-b")
