"""Small stand-ins that tests build themselves: a trunk from a config, corpora on disk. No network, no downloads."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from palmette.text import TextEncoder

WORDS = "the cat sat on mat dog runs fast in paris london anna tom good bad great awful who where is a film".split()  # noqa: SIM905


@cache
def tiny_vocabulary() -> dict[str, int]:
    """Special tokens, every ASCII character as a word and as a continuation, and a few whole words."""
    characters = [c for c in string.printable if not c.isspace() and not c.isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *(f"##{c}" for c in characters), *WORDS]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def tiny_tokenizer() -> Tokenizer:
    """A WordPiece tokenizer as BERT's, lower-casing; its file fixes truncation and padding, as MiniLM's does."""
    vocabulary = tiny_vocabulary()
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_id=0, pad_token="[PAD]")  # noqa: S106
    return tokenizer


def tiny_encoder(max_length: int = 64) -> TextEncoder:
    return TextEncoder(tiny_tokenizer(), max_length=max_length)


def tiny_trunk(
    folder: Path,
    *,
    dropout: float = 0.1,
    layers: int = 2,
    width: int = 32,
    positions: int = 64,
    spread: float = 0.02,
    seed: int = 0,
) -> Path:
    """Write a two-layer BERT of width 32 with random weights, as a Hugging Face folder."""
    import torch
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    config = BertConfig(
        vocab_size=len(tiny_vocabulary()),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=positions,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=spread,
    )
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    torch.set_rng_state(state)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@cache
def _pieces() -> tuple[str, ...]:
    return tuple(
        dict.fromkeys([*(f"▁{word}" for word in WORDS), "▁", *(c for c in string.printable if c.isprintable())])
    )


def tiny_pieces() -> Tokenizer:
    """A tokenizer as T5's: pieces that carry the space in front of them, capitals kept."""
    special = ["<pad>", "</s>", "<unk>"]
    scores = [(piece, -1.0 if len(piece) > 1 else -3.0) for piece in _pieces()]
    tokenizer = Tokenizer(models.Unigram([*((name, 0.0) for name in special), *scores], unk_id=2))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.Replace("\n", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def tiny_t5(folder: Path, *, width: int = 48, dropout: float = 0.0, seed: int = 0) -> Path:
    """Write a T5 of two layers with random weights, as a Hugging Face folder."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(_pieces()) + 3,
        d_model=width,
        d_kv=width // 4,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        dropout_rate=dropout,
    )
    return _write(T5ForConditionalGeneration, config, folder, tiny_pieces(), seed, torch)


def tiny_bart(folder: Path, *, width: int = 32, seed: int = 0) -> Path:
    """Write a BART of one layer with random weights: outputs begin with a special token, and positions end at 48."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = tiny_pieces()
    start = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", 1)]
    )
    config = BartConfig(
        vocab_size=start + 1,
        d_model=width,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=width,
        decoder_ffn_dim=width,
        max_position_embeddings=48,
        bos_token_id=start,
        eos_token_id=1,
        pad_token_id=0,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
    )
    return _write(BartForConditionalGeneration, config, folder, tokenizer, seed, torch)


def _write(network: Any, config: Any, folder: Path, tokenizer: Tokenizer, seed: int, torch: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    network(config).save_pretrained(folder)
    torch.set_rng_state(state)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_jsonl(path: Path, records: Sequence[Mapping[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def tiny_corpora(folder: Path, *, examples: int = 24, long: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Sources that label every built-in kind, learnable from the words alone; as in a configuration.

    Args:
        folder: to write to.
        examples: of each source in each split.
        long: how many sentences and passages of each split need two windows or more of the tiny trunk.
        seed: of the words.
    """
    rng = np.random.default_rng(seed)
    tags = {"anna": "B-PER", "tom": "B-PER", "paris": "B-LOC", "london": "B-LOC"}
    sources = []
    tokens: dict[str, str] = {}
    pairs: dict[str, str] = {}
    squad: dict[str, str] = {}
    for split in ("train", "dev", "test"):
        words, texts, questions = [], [], []
        for number in range(examples):
            size = int(rng.integers(3, 9)) * (25 if number < long else 1)
            sentence = [*map(str, rng.choice(WORDS, size=size)), f"{split[0]}{number}"]
            good = "good" in sentence or "great" in sentence
            words.append(
                {
                    "words": sentence,
                    "pos": ["N" if len(word) > 3 else "D" for word in sentence],
                    "ner": [tags.get(word, "O") for word in sentence],
                    "tone": "up" if good else "down",
                    "topics": sorted({word for word in sentence if word in ("cat", "dog", "film")}),
                }
            )
            other = sentence[::-1] if number % 2 else [str(word) for word in rng.choice(WORDS, size=5)]
            texts.append(
                {
                    "a": " ".join(sentence),
                    "b": " ".join(other),
                    "same": "yes" if number % 2 else "no",
                    "likeness": float(len(set(sentence) & set(other))),
                }
            )
            passage = " ".join([*sentence, "anna sat in paris", str(number)])
            answer = [] if number % 4 == 3 else [{"text": "paris", "answer_start": passage.rindex("paris")}]
            questions.append({"q": f"where is anna {split} {number}", "p": passage, "answers": answer})
        tokens[split] = write_jsonl(folder / f"words-{split}.jsonl", words)
        pairs[split] = write_jsonl(folder / f"pairs-{split}.jsonl", texts)
        squad[split] = write_jsonl(folder / f"qa-{split}.jsonl", questions)
    labels = {"pos": "pos", "ner": "ner", "tone": "tone", "topics": "topics"}
    sources.append({"format": "jsonl", "name": "words", **tokens, "text": "words", "labels": labels})
    sources.append(
        {
            "format": "jsonl",
            "name": "pairs",
            **pairs,
            "text": "a",
            "text_pair": "b",
            "labels": {"same": "same", "likeness": "likeness"},
        }
    )
    sources.append(
        {"format": "jsonl", "name": "qa", **squad, "text": "q", "text_pair": "p", "labels": {"answer": "answers"}}
    )
    return sources


ALL_TASKS: dict[str, dict[str, Any]] = {
    "pos": {"kind": "sequence_labeling"},
    "ner": {"kind": "sequence_labeling", "scheme": "iob2"},
    "tone": {"kind": "text_classification"},
    "topics": {"kind": "multilabel_classification"},
    "same": {"kind": "pair_classification"},
    "likeness": {"kind": "regression"},
    "answer": {"kind": "extractive_qa"},
}


def tiny_config(
    folder: Path, *, dropout: float = 0.1, examples: int = 24, long: int = 0, **training: Any
) -> dict[str, Any]:
    """A configuration of all kinds over tiny corpora and a tiny trunk, all written below `folder`."""
    return {
        "trunk": {"name": str(tiny_trunk(folder / "trunk", dropout=dropout))},
        "tasks": ALL_TASKS,
        "sources": tiny_corpora(folder / "data", examples=examples, long=long),
        "training": {
            "epochs": 2,
            "batch_tokens": 256,
            "learning_rate": 1e-3,
            "head_learning_rate": 1e-3,
            "dropout": dropout,
            "precision": "fp32",
            "checkpoint_updates": 3,
            **training,
        },
    }


def tiny_language_model(
    folder: Path, *, chat: bool = False, positions: int = 512, spread: float = 0.02, seed: int = 0
) -> Path:
    """Write a two-layer Llama of width 32 with random weights and a byte-level tokenizer, as a Hugging Face folder."""
    import torch
    from tokenizers import decoders
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<end>", "<turn>", *alphabet, "po", "si", "posi", "ti", "ve", "ne", "ga", "NO", "UN", "NOUN"]
    merges = [("p", "o"), ("s", "i"), ("po", "si"), ("t", "i"), ("v", "e"), ("n", "e"), ("g", "a")]
    merges += [("N", "O"), ("U", "N"), ("NO", "UN")]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", "<turn>"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")  # noqa: S106
    if chat:
        wrapped.chat_template = (
            "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>{% endfor %}"
            "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
        )
    config = LlamaConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_rng_state(state)
    wrapped.save_pretrained(folder)
    return folder


# Everything but what heads predict, which has a source of its own below.
TEXT_TASKS: dict[str, dict[str, Any]] = {**ALL_TASKS, "summary": {"kind": "generation"}}


def tiny_text_config(
    folder: Path, *, model: str = "t5", examples: int = 24, long: int = 0, **training: Any
) -> dict[str, Any]:
    """A configuration of a family that writes over all kinds, with a tiny model of random weights."""
    # At BERT's own spread of weights so narrow a cross-attention adds next to nothing, and learns too late for a test.
    start = partial(tiny_trunk, dropout=0.0, spread=0.15)
    # Its output layer stays as it is under an adapter: at Llama's own spread it could prefer nothing.
    causal = partial(tiny_language_model, chat=True, spread=0.2)
    make: dict[str, Callable[[Path], Path]] = {
        "t5": tiny_t5,
        "bart": tiny_bart,
        "warm start": start,
        "language model": causal,
    }
    sources = tiny_corpora(folder / "data", examples=examples, long=long)
    summaries = {}
    for split in ("train", "dev", "test"):
        lines = [
            {"text": f"{word} sat {split} {number}", "summary": [f"the {word}", word]}
            for number, word in zip(range(examples), WORDS, strict=False)
        ]
        summaries[split] = write_jsonl(folder / "data" / f"summary-{split}.jsonl", lines)
    sources.append(
        {"format": "jsonl", "name": "summaries", **summaries, "text": "text", "labels": {"summary": "summary"}}
    )
    return {
        **({"family": "causal_lm", "lora": {}} if model == "language model" else {"family": "text2text"}),
        "trunk": {"name": str(make[model](folder / "model"))},
        "tasks": TEXT_TASKS,
        "sources": sources,
        "training": {
            "epochs": 2,
            "batch_tokens": 1024,
            "learning_rate": 1e-3,
            "head_learning_rate": 1e-3,
            "precision": "fp32",
            "checkpoint_updates": 3,
            **training,
        },
    }
