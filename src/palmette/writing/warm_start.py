"""An encoder that becomes both sides of an encoder-decoder: Rothe, Narayan & Severyn 2020 (TACL).

What no pretraining has seen is the attention from the decoder into the input. Begun at random, it says nothing for a
long time: a decoder learns to do without it. Here it begins as what the two sides have in common: both started from the
same weights, so a word's state in the decoder is like its state in the encoder. Each place looks for states like its
own, and adds what it finds to itself.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from palmette.errors import ConfigError
from palmette.trunk import attention_for

_PROBES, _PROBE_LENGTH = 32, 24  # sequences of random subwords that states are measured on, and their length
_SHARPNESS = 6.0  # what a state's own likeness scores above that of others, in each head: e to that power
_SHARE = 0.5  # of what is found that is added


def load(name: str, place: str, tokenizer: Tokenizer, device: str) -> tuple[Any, frozenset[str]]:
    """The encoder-decoder, and the names of its parameters that no pretraining has seen.

    Args:
        name: of the encoder, for messages.
        place: where transformers finds it.
        tokenizer: its own.
        device: where it will compute.

    Raises:
        ConfigError: it is no encoder whose inputs have a special token on either side.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, EncoderDecoderConfig, EncoderDecoderModel

    probe = tokenizer.encode("a")
    special = [token for token, mark in zip(probe.ids, probe.special_tokens_mask, strict=True) if mark]
    settings = AutoConfig.from_pretrained(place)
    pad = settings.pad_token_id
    if len(special) != 2 or not probe.special_tokens_mask[0] or pad is None:
        raise ConfigError(f"trunk: {name} is neither an encoder-decoder nor an encoder with [CLS] and [SEP]")
    attention = attention_for(device)
    encoder = AutoModel.from_pretrained(place, attn_implementation=attention)
    settings.is_decoder, settings.add_cross_attention = True, True
    decoder, found = AutoModelForCausalLM.from_pretrained(
        place, config=settings, attn_implementation=attention, output_loading_info=True
    )
    both = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder.config, decoder.config, decoder_start_token_id=special[0], eos_token_id=special[1], pad_token_id=pad
    )
    network = EncoderDecoderModel(encoder=encoder, decoder=decoder, config=both).float()
    generator = torch.Generator().manual_seed(0)
    length = min(_PROBE_LENGTH, getattr(settings, "max_position_embeddings", _PROBE_LENGTH))
    subwords = torch.randint(tokenizer.get_vocab_size(), (_PROBES, length), generator=generator)
    _look_for_likes(network, subwords, generator)
    return network, frozenset(f"decoder.{key}" for key in found["missing_keys"])


@torch.no_grad()
def _look_for_likes(network: Any, subwords: Tensor, generator: torch.Generator) -> None:
    """Set the attention into the input of every layer that is built as BERT's.

    Queries and keys are the same rotation of states less their mean, so that likeness is what they score; values are
    another rotation of the encoder's states less their mean, which the output turns back.
    """
    layers = [module for module in network.decoder.modules() if hasattr(module, "crossattention")]
    network.eval()
    for layer in layers:
        _pass_through(layer)
    read = network.encoder(input_ids=subwords).last_hidden_state
    states: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    watched = [layer.attention.register_forward_hook(keep) for layer in layers]
    network.decoder(input_ids=subwords, encoder_hidden_states=read)
    for hook in watched:
        hook.remove()
    found = read.flatten(0, 1)
    for layer, state in zip(layers, states, strict=True):
        _set(layer.crossattention, state.flatten(0, 1), found, generator)


def _pass_through(layer: Any) -> None:
    """Let the attention into the input add nothing, and its normalisation change little of what it is given."""
    own, new = layer.attention.output.LayerNorm, layer.crossattention.output
    new.dense.weight.zero_()
    new.LayerNorm.weight.fill_((own.weight.square().mean() + own.bias.var()).sqrt())
    new.LayerNorm.bias.fill_(own.bias.mean())


def _set(attention: Any, asking: Tensor, found: Tensor, generator: torch.Generator) -> None:
    """Set one layer's attention by the states [places, width] that the same subwords have on both sides."""
    inner, (places, width) = attention.self, asking.shape
    heads = inner.num_attention_heads
    likeness = ((asking - asking.mean(0)) * (found - found.mean(0))).sum() / places
    scale = (_SHARPNESS * heads * (width / heads) ** 0.5 / likeness.clamp(min=1e-6)).sqrt()
    look, carry = (torch.linalg.qr(torch.randn(width, width, generator=generator))[0] for _ in range(2))
    inner.query.weight.copy_(scale * look)
    inner.query.bias.copy_(-scale * look @ asking.mean(0))
    inner.key.weight.copy_(scale * look)
    inner.value.weight.copy_(carry)
    inner.value.bias.copy_(-carry @ found.mean(0))
    attention.output.dense.weight.copy_(_SHARE * carry.T)
