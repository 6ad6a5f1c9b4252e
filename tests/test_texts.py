"""Labels as text: written, read back, and what is made of text that nobody can read."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.config import Config, TaskConfig
from palmette.errors import ConfigError
from palmette.kinds import AnyKind, check_family, find_kind
from palmette.types import Answer, Example, Prediction, Text
from palmette.words import find_words
from palmette.writing.predictor import longest_output

WORDS = ("Peter", "Black", "moved", "to", "New", "York", ".")
TEXT = Example(Text(WORDS), {})
PAIR = Example(Text(("Where", "?")), {}, pair=find_words("It was in New York, in 2010.", language="en"))


def kind(name: str, labels: list[Any], **settings: Any) -> AnyKind:
    found = find_kind(name)
    return found("task", TaskConfig(kind=name, **settings), found.fit(labels))


TAGS = kind("sequence_labeling", [("PROPN", "VERB", "ADP", "PUNCT")])
SPANS = kind("sequence_labeling", [("B-PER", "I-PER", "O", "B-LOC")], scheme="iob2")
SPACED = kind("sequence_labeling", [("B-work of art", "O")], scheme="iob2")
CLASSES = kind("text_classification", ["positive", "negative", "very negative"])
SETS = kind("multilabel_classification", [frozenset({"flight", "fare", "ground service"})])
NUMBER = kind("regression", [1.0, 2.6, 4.2, 5.0])
SPAN = kind("extractive_qa", [(), (Answer(0, "x"),)])
TEXTS = kind("generation", [("a summary of some words",)])
KINDS = [TAGS, SPANS, CLASSES, SETS, NUMBER, SPAN, TEXTS]
IDS = ["tags", "spans", "classes", "sets", "number", "span", "texts"]

REMOTE = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "token_budget": 9}

LABELS: list[tuple[AnyKind, Any, Example, str]] = [
    (
        TAGS,
        ("PROPN", "PROPN", "VERB", "ADP", "PROPN", "PROPN", "PUNCT"),
        TEXT,
        "1 Peter PROPN 2 Black PROPN 3 moved VERB 4 to ADP 5 New PROPN 6 York PROPN 7 . PUNCT",
    ),
    (
        SPANS,
        ("B-PER", "I-PER", "O", "O", "B-LOC", "I-LOC", "O"),
        TEXT,
        "1 Peter B-PER 2 Black I-PER 5 New B-LOC 6 York I-LOC",
    ),
    (SPANS, ("O",) * 7, TEXT, "none"),
    (
        SPACED,
        ("B-work of art", "I-work of art", "O", "O", "B-work of art", "O", "O"),
        TEXT,
        "1 Peter B-work of art 2 Black I-work of art 5 New B-work of art",
    ),
    (CLASSES, "very negative", TEXT, "very negative"),
    (SETS, frozenset({"fare", "ground service"}), TEXT, "fare, ground service"),
    (SETS, frozenset(), TEXT, "none"),
    (NUMBER, 3.8, TEXT, "3.8"),
    (SPAN, (Answer(10, "New York"),), PAIR, "New York"),
    (SPAN, (), PAIR, "unanswerable"),
    (TEXTS, ("short one",), TEXT, "short one"),
]


@pytest.mark.parametrize(("asked", "label", "example", "text"), LABELS)
def test_a_label_is_written_and_read_back(asked: AnyKind, label: Any, example: Example, text: str) -> None:
    assert asked.target_text(label, example) == text
    assert asked.read_text(text, example) == (label, True)


ODD = ["etc.", "Smith, J.", "smith", "Smith", "a b", "ab", "none", "*", ":(", '"']


@pytest.mark.parametrize("name", ["text_classification", "multilabel_classification", "sequence_labeling"])
@given(chosen=st.sets(st.sampled_from(ODD)))
def test_odd_labels_survive_writing_and_reading(name: str, chosen: set[str]) -> None:
    if name == "multilabel_classification":
        asked = kind(name, [frozenset(ODD)])
        labels: list[Any] = [frozenset(chosen)]
    elif name == "sequence_labeling":
        asked = kind(name, [tuple(ODD)])
        labels = [tuple(sorted(chosen)[:1] * len(WORDS))] if chosen else []
    else:
        asked = kind(name, ODD)
        labels = sorted(chosen)
    for label in labels:
        assert asked.read_text(asked.target_text(label, TEXT), TEXT) == (label, True)


@given(
    tagged=st.lists(
        st.tuples(
            st.sampled_from(
                ["3", "2", "1", "VERB", "none", "B-PER", "a b", "3VERB", "\u00c9", "\u4e2d", ".", "-", "10:30"]
            ),
            st.sampled_from(TAGS.labels),
            st.sampled_from(("O", "B-PER")),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_words_that_look_like_numbers_or_tags_do_no_harm(tagged: list[tuple[str, str, str]]) -> None:
    words, tags, spans = zip(*tagged, strict=True)
    example = Example(Text(words), {})
    for asked, label in ((TAGS, tags), (SPANS, spans)):
        text = asked.target_text(label, example)
        assert asked.read_text(text, example) == (label, True)
        written: tuple[str, ...] = ()
        while "".join(written) != text:
            pieces = asked.next_pieces(written, example) or ()
            written = (*written, next(one for one in pieces if one and text.startswith("".join((*written, one)))))
        assert "" in (asked.next_pieces(written, example) or ())


def test_a_word_may_be_spelled_otherwise_or_be_missing() -> None:
    text = "1 Petr PROPN\n2: PROPN 3 moved: VERB, 4 ADP 5 n e w PROPN 6 y\u00f6rk PROPN 7 . PUNCT"
    assert TAGS.read_text(text, TEXT) == (("PROPN", "PROPN", "VERB", "ADP", "PROPN", "PROPN", "PUNCT"), True)
    tags, readable = TAGS.read_text(
        "1 Peter 2 Black PROPN 3 I would rather not say what that is here, and not ever, VERB", TEXT
    )
    assert (tags[:3], readable) == (("\ufffd", "PROPN", "\ufffd"), False)


@pytest.mark.parametrize(("asked", "label", "example", "text"), LABELS)
def test_what_a_lower_casing_tokenizer_leaves_of_it_is_read(
    asked: AnyKind, label: Any, example: Example, text: str
) -> None:
    found, readable = asked.read_text(text.lower().replace("-", " - ").replace(".", " . ").replace(",", " , "), example)
    assert readable
    assert found == label or asked is TEXTS


@pytest.mark.parametrize(("asked", "label", "example", "text"), LABELS)
def test_every_written_label_is_among_the_constrained_outputs(
    asked: AnyKind, label: Any, example: Example, text: str
) -> None:
    written: tuple[str, ...] = ()
    if asked.next_pieces((), example) is None:
        assert asked is TEXTS
        return
    while "".join(written) != text:
        pieces = asked.next_pieces(written, example) or ()
        fitting = [piece for piece in pieces if piece and text.startswith("".join((*written, piece)))]
        assert fitting, (written, pieces)
        written = (*written, max(fitting, key=len))
    assert "" in (asked.next_pieces(written, example) or ())


@pytest.mark.parametrize("asked", [TAGS, SPANS, SPACED, CLASSES, SETS, NUMBER, SPAN])
@given(seed=st.integers(0, 10_000))
def test_whatever_the_constraints_allow_is_readable(asked: AnyKind, seed: int) -> None:
    example = PAIR if asked is SPAN else TEXT
    choose = random.Random(seed)  # noqa: S311 - no cryptography
    written: tuple[str, ...] = ()
    while True:
        pieces = asked.next_pieces(written, example)
        assert pieces
        piece = choose.choice(pieces)
        if not piece:
            break
        written = (*written, piece)
    label, readable = asked.read_text("".join(written), example)
    assert readable
    assert asked.target_text(label, example) == "".join(written)


@pytest.mark.parametrize(("asked", "example"), list(zip(KINDS, [TEXT] * 5 + [PAIR, TEXT], strict=True)), ids=IDS)
@given(text=st.text(max_size=60))
def test_no_output_breaks_the_reader(asked: AnyKind, example: Example, text: str) -> None:
    _, readable = asked.read_text(text, example)
    assert isinstance(readable, bool)


@pytest.mark.parametrize(
    ("asked", "gold", "example", "metric"),
    [
        (TAGS, ("PROPN",) * 7, TEXT, "accuracy"),
        (CLASSES, "positive", TEXT, "accuracy"),
        (SETS, frozenset(), TEXT, "subset_accuracy"),
        (SETS, frozenset(), TEXT, "micro_f1"),
        (SPAN, (), PAIR, "f1"),
        (SPAN, (), PAIR, "exact_match"),
        (TEXTS, ("words",), TEXT, "rouge_l"),
        (TEXTS, ("A", "!"), TEXT, "exact_match"),
        (TEXTS, ("A", "!"), TEXT, "f1"),
        (SPANS, ("O",) * 7, TEXT, "accuracy"),
        (SPANS, ("O", "B-PER", *("O",) * 5), TEXT, "span_f1"),
    ],
)
def test_what_cannot_be_read_is_never_right(asked: AnyKind, gold: Any, example: Example, metric: str) -> None:
    output = "" if asked is TEXTS else "I would rather not say"
    label, readable = asked.read_text(output, example)
    assert not readable
    assert asked.score([gold], [label])[metric] == 0
    scored = type(asked)("task", asked.config.model_copy(update={"metric": metric}), asked.state)
    assert scored.combine(scored.parts([gold], [label]).sum(0)) == 0


def test_a_number_that_cannot_be_read_is_as_wrong_as_it_can_be() -> None:
    label, readable = NUMBER.read_text("quite similar", TEXT)
    assert not readable
    assert NUMBER.score([1.0, 4.0], [label, 4.0])["mse"] == pytest.approx(8.0)
    assert NUMBER.read_text("17", TEXT)[1] is False


def test_a_label_with_words_around_it_is_read() -> None:
    assert CLASSES.read_text(' "Positive." ', TEXT) == ("positive", True)
    assert CLASSES.read_text("very negative, since", TEXT) == ("very negative", True)
    assert CLASSES.read_text("positively", TEXT)[1] is False
    assert SPAN.read_text("new york.\nBecause", PAIR) == ((Answer(10, "New York"),), True)


def test_missing_words_and_repeated_numbers_are_counted() -> None:
    tags, readable = TAGS.read_text("1 PROPN 3 VERB 3 ADP 9 VERB", TEXT)
    assert not readable
    assert tags[:3] == ("PROPN", "\ufffd", "VERB")
    spans, readable = SPANS.read_text("2 I-PER", TEXT)
    assert (spans[1], readable) == ("B-PER", False)
    shown = SPANS.render(Prediction(spans, (1.0,) * 7), TEXT)
    assert shown["tags"] == ["O", "B-PER", "O", "O", "O", "O", "O"]
    assert [span["words"] for span in shown["spans"]] == [[1, 2]]


@pytest.mark.parametrize(("text", "score"), [("a", 1), ("The", 0), ("B", 0), ("?", 0)])
def test_texts_of_which_nothing_is_left_are_compared_as_they_are(text: str, score: float) -> None:
    found = TEXTS.score([("A",)], [(text,)])
    assert found["exact_match"] == found["f1"] == score


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("a summary of some words, well-known.", 6),
        ("\u732b\u5750\u5728\u57ab\u5b50\u4e0a" * 5, 30),  # Chinese
        ("\u30b9\u30ad\u30fc\u306b 2010 \u5e74", 6),  # Japanese
        ("\u0e41\u0e21\u0e27" * 10, 30),  # Thai
        ("\uace0\uc591\uc774\uac00 \uc549\uc558\ub2e4", 2),  # Korean has spaces
    ],
)
def test_there_is_room_for_the_longest_reference_in_any_script(reference: str, words: int) -> None:
    asked = kind("generation", [("short",), ("one", reference)])
    assert longest_output(asked, TEXT) == 16 + 2 * words


def test_generation_takes_the_best_reference() -> None:
    scores = TEXTS.score([("a b c d", "w x y z")], [("w x y z",)])
    assert scores["rouge_l"] == scores["rouge_1"] == scores["exact_match"] == scores["f1"] == 1
    assert scores["bleu"] == pytest.approx(1)
    assert scores["chrf"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "heads"}, "tasks.t.kind: generation is for models that write: family: text2text or causal_lm"),
        ({"family": "heads", "writing": {"beams": 4}}, "writing: goes with family: text2text or causal_lm"),
        ({"prompting": {"shots": 2}}, "prompting: goes with family: causal_lm"),
        ({"endpoint": REMOTE}, "endpoint: goes with family: causal_lm"),
        ({"family": "causal_lm", "prompting": {"prompts": {"x": {}}}}, "prompting.prompts.x: no task 'x' is declared"),
        ({"family": "text2text", "trunk": {"layers": 2}}, "trunk.layers: goes with family: heads"),
    ],
)
def test_settings_belong_to_their_family(changes: dict[str, Any], message: str) -> None:
    base = {
        "family": "text2text",
        "tasks": {"t": {"kind": "generation"}},
        "sources": [{"format": "jsonl", "train": "x", "text": "a", "labels": {"t": "b"}}],
    }
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        check_family(Config.parse(base | changes))


def test_a_language_model_has_its_own_default() -> None:
    data = {
        "family": "causal_lm",
        "tasks": {"t": {"kind": "generation"}},
        "sources": [{"format": "jsonl", "train": "x", "text": "a", "labels": {"t": "b"}}],
    }
    assert Config.parse(data).trunk.name == "smollm2-135m-instruct"
