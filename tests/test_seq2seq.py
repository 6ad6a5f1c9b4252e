"""Writing with an encoder-decoder: batches, constraints, beams, what is too long; saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fakes import tiny_bart, tiny_t5, tiny_trunk
from palmette import checkpoint
from palmette.config import TrunkConfig
from palmette.errors import ConfigError
from palmette.kinds import AnyKind
from palmette.types import Example, Text
from palmette.writing import seq2seq
from palmette.writing.seq2seq import Seq2Seq, Seq2SeqWriter, Tokens
from palmette.writing.writer import Request
from test_texts import SPANS, TAGS

CPU = torch.device("cpu")
Make = Callable[[Path], Path]
MODELS: dict[str, Make] = {"t5": tiny_t5, "bart": tiny_bart, "warm start": tiny_trunk}
SENTENCE = Example(Text(("the", "cat", "sat", "in", "paris")), {})


def load(folder: Path, **settings: int) -> tuple[Seq2Seq, Tokens]:
    model, tokens = seq2seq.load_pretrained(TrunkConfig(name=str(folder), **settings))
    model.eval()
    return model, tokens


@pytest.fixture(scope="module", params=MODELS, ids=lambda name: name.replace(" ", "-"))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seq2Seq, Tokens]:
    return load(MODELS[request.param](tmp_path_factory.mktemp("model")))


def ask(text: str, longest: int = 12, **options: object) -> Request:
    return Request(({"role": "user", "content": text},), longest, **options)  # type: ignore[arg-type]


REQUESTS = [ask(text) for text in ("a cat", "the dog runs fast in paris", "who", "where is the film")]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_is_answered_as_each_of_it_alone(loaded: tuple[Seq2Seq, Tokens], beams: int) -> None:
    together = Seq2SeqWriter(*loaded, CPU, beams=beams).write(REQUESTS)
    alone = Seq2SeqWriter(*loaded, CPU, beams=beams, batch_tokens=1).write(REQUESTS)
    assert together == alone
    assert [written.prompt_tokens for written in together] == [
        len(ids) for ids, _ in loaded[1].sources([request.prompt[0]["content"] for request in REQUESTS])
    ]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", [TAGS, SPANS], ids=["tags", "spans"])
def test_constrained_answers_are_readable_whatever_the_weights_are(
    loaded: tuple[Seq2Seq, Tokens], kind: AnyKind, beams: int
) -> None:
    examples = [Example(Text(SENTENCE.text.words[:count]), {}) for count in (1, 3, 2)]
    requests = [ask(e.text.string, 40, next_pieces=lambda written, e=e: kind.next_pieces(written, e)) for e in examples]
    requests.insert(1, REQUESTS[0])  # one that nothing constrains
    found = Seq2SeqWriter(*loaded, CPU, beams=beams).write(requests)
    del found[1]
    for example, written in zip(examples, found, strict=True):
        label, readable = kind.read_text(written.text, example)
        assert readable, written
        assert kind.target_text(label, example) == written.text
        assert not written.truncated


def test_beams_find_the_most_probable_answer(loaded: tuple[Seq2Seq, Tokens]) -> None:
    """With a beam for each; probability for each token."""
    model, tokens = loaded

    def score(text: str) -> float:
        (source, _), (target, _) = tokens.sources(["a cat"])[0], tokens.targets([text])[0]
        with torch.inference_mode():
            logits = model(torch.tensor([source]), torch.ones(1, len(source)), torch.tensor([[tokens.start, *target]]))
        chosen = logits[0, :-1].log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)]
        return float(chosen[len(tokens.lead) :].mean())

    request = ask("a cat", 40, next_pieces=lambda written: TAGS.next_pieces(written, Example(Text(("a",)), {})))
    (found,) = Seq2SeqWriter(model, tokens, CPU, beams=8).write([request])
    assert found.text == max((f"1 a {tag}" for tag in TAGS.labels), key=score)


def test_inputs_that_are_too_long_are_cut_in_the_middle_and_counted(tmp_path: Path) -> None:
    model, tokens = load(tiny_bart(tmp_path), max_length=16)
    (ids, cut), (_, whole) = tokens.sources(["the task " + "cat " * 40 + "paris", "a cat"])
    assert (len(ids), cut, whole) == (16, True, False)
    text = tokens.text(ids[:-1])
    assert text.startswith("the task cat cat")
    assert text.endswith("cat paris")
    long, fine = Seq2SeqWriter(model, tokens, CPU).write([ask("cat " * 40, 46), ask("cat", 2)])
    assert long.truncated
    assert long.prompt_tokens == 16
    assert fine.prompt_tokens == len(tokens.sources(["cat"])[0][0])


def test_an_answer_without_an_end_is_truncated(loaded: tuple[Seq2Seq, Tokens]) -> None:
    """Each within its own limit, though they are written together."""
    endless = [
        ask("a cat", longest, next_pieces=lambda written: ("a cat",) if not written else (" cat",))
        for longest in (3, 9, 5)
    ]
    found = Seq2SeqWriter(*loaded, CPU).write(endless)
    assert [(written.written_tokens, written.truncated) for written in found] == [(3, True), (9, True), (5, True)]


def test_targets_that_the_model_has_no_positions_for_are_cut(tmp_path: Path) -> None:
    _, tokens = load(tiny_bart(tmp_path))
    (ids, cut), (short, whole) = tokens.targets(["cat " * 80, "cat"])
    assert (len(ids), cut, ids[-1] != tokens.end) == (48, True, True)
    assert (whole, short[-1]) == (False, tokens.end)


def test_targets_begin_and_end_as_the_model_wants(tmp_path: Path) -> None:
    _, t5 = load(tiny_t5(tmp_path / "t5"))
    _, bart = load(tiny_bart(tmp_path / "bart"))
    _, warm = load(tiny_trunk(tmp_path / "warm"))
    assert [tokens.lead for tokens in (t5, bart, warm)] == [(), (bart.tokenizer.token_to_id("<s>"),), ()]
    assert (t5.start, bart.start, warm.start) == (0, 1, warm.tokenizer.token_to_id("[CLS]"))
    for tokens in (t5, bart, warm):
        ((ids, _),) = tokens.targets(["good film"])
        assert tokens.text(ids[len(tokens.lead) :]) == "good film"


def test_what_is_written_depends_on_the_input_and_on_what_was_written_before(loaded: tuple[Seq2Seq, Tokens]) -> None:
    """And not on what comes later, which training shows the decoder, or on padding."""
    model, tokens = loaded
    (source, _), (other, _) = tokens.sources(["a cat sat", "a dog sat"])
    target, later = [tokens.targets([text])[0][0] for text in ("good film", "good mat")]

    def scores(read: list[int], given: list[int], padding: int = 0) -> torch.Tensor:
        mask = torch.tensor([[1] * len(read) + [0] * padding])
        with torch.inference_mode():
            found: torch.Tensor = model(torch.tensor([[*read, *[tokens.pad] * padding]]), mask, torch.tensor([given]))
        return found[0]

    same = next(place for place, (one, two) in enumerate(zip(target, later, strict=False)) if one != two)
    torch.testing.assert_close(scores(source, target)[:same], scores(source, later)[:same])
    assert not torch.allclose(scores(source, target)[same], scores(source, later)[same])
    assert not torch.allclose(scores(source, target)[0], scores(other, target)[0])
    torch.testing.assert_close(scores(source, target, padding=5), scores(source, target), rtol=1e-4, atol=1e-5)


def test_saved_and_loaded(loaded: tuple[Seq2Seq, Tokens], tmp_path: Path) -> None:
    model, tokens = loaded
    seq2seq.save_architecture(model, tokens, tmp_path)
    checkpoint.save_tensors(checkpoint.own_tensors(model), tmp_path / "model.safetensors")
    again, read = seq2seq.load_architecture(tmp_path)
    checkpoint.load_weights(again, tmp_path / "model.safetensors")
    again.eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    names = [[name for name, _ in found.named_parameters()] for found in (model, again)]
    assert names[0] == names[1]  # tied alike
    assert Seq2SeqWriter(again, read, CPU).write(REQUESTS) == Seq2SeqWriter(model, tokens, CPU).write(REQUESTS)


def test_a_warm_start_takes_both_sides_from_the_encoder(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model, _ = load(tiny_trunk(tmp_path))
    start = load_file(tmp_path / "model.safetensors")
    state = model.state_dict()
    for name, tensor in start.items():
        for side in ("encoder", "decoder.bert"):
            assert torch.equal(state[f"network.{side}.{name}"], tensor), (side, name)
    parameters = dict(model.named_parameters())
    assert parameters.keys() > model.new
    assert all("crossattention" in name or "cls.predictions" in name for name in model.new)
    assert any("crossattention" in name for name in model.new)
    words = [name for name in parameters if "word_embeddings" in name or "predictions.decoder.weight" in name]
    assert words == ["network.encoder.embeddings.word_embeddings.weight"]


@pytest.mark.parametrize("spread", [0.02, 0.15])
def test_a_warm_start_looks_for_the_words_that_it_writes(tmp_path: Path, spread: float) -> None:
    """Before any training, places of an output attend to the same subword of the input."""
    model, _ = load(tiny_trunk(tmp_path, dropout=0.0, spread=spread))
    read, given = torch.arange(5, 25)[None], torch.arange(24, 4, -1)[None]
    shared = set(read[0].tolist())
    for layer in model.network.decoder.bert.encoder.layer:
        found: dict[str, torch.Tensor] = {}
        attention = layer.crossattention.self
        for name in ("query", "key"):
            part = getattr(attention, name)
            part.register_forward_hook(lambda _, __, output, found=found, name=name: found.__setitem__(name, output[0]))
        with torch.inference_mode():
            model(read, torch.ones_like(read), given)
        best = (found["query"] @ found["key"].T).argmax(-1)
        assert set(given[0].tolist()) == shared
        assert (read[0][best] == given[0]).float().mean() > 0.3, "by chance it would be a twentieth"


def test_the_offline_trunk_is_the_default() -> None:
    model, tokens = seq2seq.load_pretrained(TrunkConfig())
    assert (tokens.start, tokens.end, tokens.pad) == (101, 102, 0)
    assert sum(parameter.numel() for parameter in model.parameters()) < 40e6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "no/such-model"}, "trunk: no/such-model cannot be loaded"),
        ({"max_length": 99}, "trunk.max_length: the model has positions for 48 subwords only"),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        seq2seq.load_pretrained(TrunkConfig.model_validate({"name": str(tiny_bart(tmp_path))} | settings))
