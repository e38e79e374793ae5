"""What CLIP's towers give for an item, without what no vector needs; the weights and modules are transformers' own.

A vector is made of the state of one token: an image's first, a text's last. So what follows attention in the last layer
is computed for the token that speaks for its item alone. With tokens of width D, a layer's products cost 12 D² a token,
4 of them the attention's, one of these after it; 9 of the 12 fall away in the last layer, 6 % of a tower of twelve.
Texts that begin alike share their beginning besides: see packing.

Training goes through transformers' own forward pass, which keeps what gradients need.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers.activations import QuickGELUActivation


def see(vision: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Features (B, features_dim) that a CLIPVisionModel gives for normalised pixels (B, 3, height, width)."""
    hidden = vision.pre_layrnorm(vision.embeddings(pixels))
    first = torch.arange(hidden.shape[0], device=hidden.device) * hidden.shape[1]
    return cast("torch.Tensor", vision.post_layernorm(_through(vision.encoder.layers, hidden, first)))


def read(
    text: Any, tokens: torch.Tensor, positions: torch.Tensor, attends: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """The states (B, width) of the last tokens of packed texts, as a CLIPTextModel gives them."""
    hidden = text.embeddings.token_embedding(tokens) + text.embeddings.position_embedding(positions)
    bias = torch.zeros(attends.shape, dtype=hidden.dtype, device=hidden.device).masked_fill_(~attends, -torch.inf)
    return cast("torch.Tensor", text.final_layer_norm(_through(text.encoder.layers, hidden, ends, bias)))


def _through(
    layers: torch.nn.ModuleList, hidden: torch.Tensor, speakers: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The states (B, D) that the tokens at `speakers` (B,) of `hidden` (G, T, D), laid flat, have after all layers."""
    *others, last = layers
    for layer in others:
        hidden = _after(layer, hidden, _mixed(layer, hidden, bias))
    mixed = _mixed(last, hidden, bias)
    return _after(last, hidden.flatten(0, 1)[speakers], mixed.flatten(0, 1)[speakers])


def _mixed(layer: Any, hidden: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """What attention mixes for each token, by head: (G, T, D)."""
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden)
    parts = (project(normed) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
    query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in parts)
    if bias is not None and hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16:
        mixed = _attended(query, key, value, bias[:, None])
    else:
        mixed = scaled_dot_product_attention(query, key, value, None if bias is None else bias[:, None])
    return mixed.transpose(1, 2).flatten(2)


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """softmax(Q Kᵀ / √d + bias) V of (G, heads, T, d), in plain products.

    With a bias and few tokens, on a CPU in bf16, this takes half the time of torch's fused attention, which is made for
    long rows. The price is one more rounding, of the scores.
    """
    rows, heads, tokens, width = query.shape
    query, key, value = (part.reshape(rows * heads, tokens, width) for part in (query, key, value))
    scores = torch.bmm(query, key.transpose(1, 2)).mul_(width**-0.5).view(rows, heads, tokens, tokens)
    scores += bias
    return torch.bmm(scores.softmax(-1).flatten(0, 1), value).view(rows, heads, tokens, width)


def _after(layer: Any, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """A layer's states of tokens, from their states before it and what its attention mixed for them."""
    hidden = hidden + layer.self_attn.out_proj(mixed)
    wide = layer.mlp.fc1(layer.layer_norm2(hidden))
    return cast("torch.Tensor", hidden + layer.mlp.fc2(_activated(layer.mlp.activation_fn, wide)))


def _activated(activation: Any, wide: torch.Tensor) -> torch.Tensor:
    """The activation of a layer's widened states; OpenAI's, x sigmoid(1.702 x) = silu(1.702 x) / 1.702, in place.

    In fp16 1.702 x may be too large where x is not: there it stays as transformers has it.
    """
    if isinstance(activation, QuickGELUActivation) and wide.dtype != torch.float16:
        return silu(wide.mul_(1.702), inplace=True).div_(1.702)
    return cast("torch.Tensor", activation(wide))
