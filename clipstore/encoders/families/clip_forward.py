"""CLIP's forward pass for stored vectors: only what the pooled token needs; weights and modules are transformers' own.

A vector is the projection of one token's state: an image's first token (CLS), a text's last (EOS). In the last layer,
what follows attention is therefore computed for the pooled token alone. For tokens of width D the matrix products
of a layer cost 12 D² per token: 4 D² in attention, one of them after the mixing, and 8 D² in the MLP. The last layer
saves 9 of the 12 on all other tokens, which is 6 % of a tower of twelve layers. Texts also share the computation of
common prefixes: see packing.

Training uses transformers' own forward pass, which keeps what gradients need.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers.activations import QuickGELUActivation


def encode_image(vision: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Features (B, features_dim) of a CLIPVisionModel for normalised pixels (B, 3, height, width)."""
    hidden = vision.pre_layrnorm(vision.embeddings(pixels))
    first = torch.arange(hidden.shape[0], device=hidden.device) * hidden.shape[1]
    return cast("torch.Tensor", vision.post_layernorm(_run_layers(vision.encoder.layers, hidden, first)))


def encode_text(
    text: Any, tokens: torch.Tensor, positions: torch.Tensor, attends: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """States (B, width) of the last tokens of packed texts, as a CLIPTextModel computes them; see `packing.Packed`."""
    hidden = text.embeddings.token_embedding(tokens) + text.embeddings.position_embedding(positions)
    bias = torch.zeros(attends.shape, dtype=hidden.dtype, device=hidden.device).masked_fill_(~attends, -torch.inf)
    return cast("torch.Tensor", text.final_layer_norm(_run_layers(text.encoder.layers, hidden, ends, bias)))


def _run_layers(
    layers: torch.nn.ModuleList, hidden: torch.Tensor, pooled: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """States (B, D) after all layers of the tokens numbered `pooled` (B,) in `hidden` (G, T, D), flattened to G·T."""
    *others, last = layers
    for layer in others:
        hidden = _finish_layer(layer, hidden, _attend(layer, hidden, bias))
    mixed = _attend(last, hidden, bias)
    return _finish_layer(last, hidden.flatten(0, 1)[pooled], mixed.flatten(0, 1)[pooled])


def _attend(layer: Any, hidden: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Self-attention's weighted values of all heads, concatenated, before the output projection: (G, T, D)."""
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden)
    projections = (project(normed) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
    query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projections)
    if bias is not None and hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16:
        mixed = _plain_attention(query, key, value, bias[:, None])
    else:
        mixed = scaled_dot_product_attention(query, key, value, None if bias is None else bias[:, None])
    return mixed.transpose(1, 2).flatten(2)


def _plain_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """softmax(Q Kᵀ / √d + bias) V of (G, heads, T, d), in plain matrix products.

    On a CPU in bf16, with a bias and short rows, this takes half the time of torch's fused attention, which is tuned
    for long rows. The price is one more rounding, of the scores.
    """
    rows, heads, tokens, width = query.shape
    query, key, value = (part.reshape(rows * heads, tokens, width) for part in (query, key, value))
    scores = torch.bmm(query, key.transpose(1, 2)).mul_(width**-0.5).view(rows, heads, tokens, tokens)
    scores += bias
    return torch.bmm(scores.softmax(-1).flatten(0, 1), value).view(rows, heads, tokens, width)


def _finish_layer(layer: Any, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """Output states of a layer, from its input states and the result of its attention (see `_attend`)."""
    hidden = hidden + layer.self_attn.out_proj(mixed)
    inner = layer.mlp.fc1(layer.layer_norm2(hidden))
    return cast("torch.Tensor", hidden + layer.mlp.fc2(_activate(layer.mlp.activation_fn, inner)))


def _activate(activation: Any, inner: torch.Tensor) -> torch.Tensor:
    """The MLP's activation; QuickGELU, x sigmoid(1.702 x) = silu(1.702 x) / 1.702, is computed in place.

    In fp16, 1.702 x can overflow where x does not: there transformers' own function is used.
    """
    if isinstance(activation, QuickGELUActivation) and inner.dtype != torch.float16:
        return silu(inner.mul_(1.702), inplace=True).div_(1.702)
    return cast("torch.Tensor", activation(inner))
