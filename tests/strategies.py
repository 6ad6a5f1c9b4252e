"""What hypothesis draws, shared by tests: awkward words and texts, tokenizers of every family, spans."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from fakes import tiny_tokenizer
from palmette.metrics import Span

# Emoji with joiners and variation selectors, combining marks, right to left, NUL, and what is white space to some.
AWKWARD = (
    "\U0001f468\u200d\U0001f469",
    "\u2764\ufe0f",
    "\ufe0f",
    "e\u0301\u0316",
    "\u0301",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u202e",
    "\x00",
    "\u2028",
    "\x85",
    "\u3000",
    "\xa0",
    "\xad",
    "\u4eac\u90fd",
    "\ufb01n\xb4",
    "\u0130",
    "\xdf",
    "\U0001d49c",
    "don't",
    "(.",
    "[SEP]",
    "</s>",
    "\u2581",
    "\u0120",
)

_characters = st.characters(exclude_categories=["Cs"])
pieces = st.one_of(st.sampled_from(AWKWARD), st.text(_characters, max_size=5), st.sampled_from(("the", "Cat", "sat")))

# Strings as people and programs send them.
raw_texts = st.lists(st.one_of(pieces, st.sampled_from((" ", "\n", "\t ", "  "))), max_size=12).map("".join)

# Words as files hold them: blank ones included, and ones with spaces inside.
words = st.lists(st.one_of(pieces, st.sampled_from(("", " ", "  ", "New York", "\n"))), max_size=10).map(tuple)


def _byte_level(*, trim: bool) -> Tokenizer:
    """As RoBERTa's: bytes, no unknown token, the space before a word belongs to it; two separators between a pair."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat in paris"] * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 1), ("<s>", 0), trim_offsets=trim, add_prefix_space=False
    )
    return tokenizer


def _metaspace(scheme: str) -> Tokenizer:
    """As T5's: sentence pieces after NFKC and with runs of spaces collapsed; only suffixes."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",  # noqa: S106
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat in paris", "great films, really"] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def _bare() -> Tokenizer:
    """Bytes without any special token."""
    tokenizer = _byte_level(trim=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": cache(tiny_tokenizer),
    "bytes": cache(lambda: _byte_level(trim=True)),
    "bytes-untrimmed": cache(lambda: _byte_level(trim=False)),
    "bytes-bare": cache(_bare),
    "metaspace-always": cache(lambda: _metaspace("always")),
    "metaspace-never": cache(lambda: _metaspace("never")),
}

TYPES = ("PER", "LOC", "B-X", "I-PER")  # types may look like tags


@st.composite
def spans(draw: st.DrawFn, *, max_length: int = 12) -> tuple[int, list[Span]]:
    """A number of words and spans over them that do not overlap; neighbours of one type are common."""
    length = draw(st.integers(0, max_length))
    found: list[Span] = []
    position = 0
    while position < length:
        position += draw(st.sampled_from((0, 0, 1, 2)))
        size = draw(st.integers(1, 4))
        if position + size <= length:
            found.append((position, position + size, draw(st.sampled_from(TYPES))))
        position += size
    return length, found
