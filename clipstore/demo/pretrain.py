"""Pretrain the small CLIP of the demo on synthetic scenes and save it in Hugging Face format.

    python -m clipstore.demo.pretrain OUT_DIR [--scenes N] [--steps N] [--seed S]

The scenes come from a separate random stream: no seed of the demo draws one of them. The bundled model was made with
the default settings. The same CPU reproduces it byte for byte; another CPU may not.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from clipstore.demo.scenes import CAPTIONS, Example, draw_examples
from clipstore.demo.tokenizer import MAX_TOKENS, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

STREAM = "pretraining"
# The last wording is nearly excluded, so that fine-tuning has something to improve: with a share of 5 % the model
# learns it almost as well as the others.
SHARES: Mapping[str, float] = {
    "listed": 0.28,
    "placed": 0.25,
    "related": 0.25,
    "brief": 0.219,
    "ornate": 0.001,
}

IMAGE_SIDE = 64
EMBEDDING = 64
MAX_MERGES = 500
AT_LEAST_ONE = click.IntRange(min=1)
LARGEST_SCALE = math.log(100.0)  # CLIP's own limit on the temperature


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Number of steps, batch size and learning rate of the pretraining."""

    steps: int
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 150

    def rate(self, step: int) -> float:
        """The factor of the learning rate at a step: a linear warmup, then half a cosine down to zero."""
        warmup = min(self.warmup, self.steps // 10 + 1)
        rest = (step - warmup) / max(1, self.steps - warmup)
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * max(0.0, rest))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """The synthetic scenes, preprocessed and tokenized."""

    pixels: NDArray[np.uint8]  # (N, 3, side, side), before normalisation
    tokens: NDArray[np.int64]  # (N, captions, longest), padded
    lengths: NDArray[np.int64]  # (N, captions), tokens without padding


@click.command()
@click.argument("out_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--scenes", default=20_000, type=AT_LEAST_ONE, show_default=True, help="Number of scenes to draw.")
@click.option("--steps", default=700, type=AT_LEAST_ONE, show_default=True, help="Number of batches to train on.")
@click.option("--seed", default=0, show_default=True, help="Seed of scenes, weights and batches.")
@click.option("--threads", default=1, show_default=True, help="CPU threads of torch.")
@click.option(
    "--precision",
    type=click.Choice(["bf16", "fp32"]),
    default="bf16",
    show_default=True,
    help="fp32 is faster on CPUs without native bfloat16.",
)
def main(*, out_dir: Path, scenes: int, steps: int, seed: int, threads: int, precision: str) -> None:
    """Pretrain the demo's small CLIP and save it in OUT_DIR."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    processor = image_processor()
    examples = draw_examples(scenes, seed=seed, shares=SHARES, stream=STREAM)
    pixels, captions = _preprocess(examples, processor)
    tokenizer = train_tokenizer(captions, max_merges=MAX_MERGES)
    corpus = _corpus(pixels, captions, tokenizer)
    model = small_clip(tokenizer)
    click.echo(f"{scenes:,} scenes, {len(tokenizer)} tokens, {model.num_parameters():,} parameters", err=True)
    pretrain(model, corpus, Schedule(steps=steps), seed=seed, bf16=precision == "bf16")
    save(out_dir, model, tokenizer, processor)


def image_processor() -> CLIPImageProcessorPil:
    """CLIP's preprocessing, at the small model's resolution."""
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    return CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIDE}, crop_size=side)


def small_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP of fewer than two million parameters, with fresh weights."""
    shape = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "hidden_act": "gelu"}
    text = {
        **shape,
        "projection_dim": EMBEDDING,
        "num_hidden_layers": 3,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        **shape,
        "projection_dim": EMBEDDING,
        "num_hidden_layers": 5,
        "image_size": IMAGE_SIDE,
        "patch_size": 16,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBEDDING))
    # On a CPU the backward pass of plain attention takes half the time of the fused one's.
    model.set_attn_implementation("eager")
    return model


def _preprocess(examples: Iterator[Example], processor: CLIPImageProcessorPil) -> tuple[NDArray[np.uint8], list[str]]:
    """The scenes' pixels before normalisation, and all captions in the order of the scenes."""
    blocks, captions = [], []
    while block := list(islice(examples, 1000)):
        pictures = [example.picture for example in block]
        output = processor(pictures, do_rescale=False, do_normalize=False, return_tensors="np")
        blocks.append(output["pixel_values"].astype(np.uint8))
        captions += [caption for example in block for caption in example.captions]
    return np.concatenate(blocks), captions


def _corpus(pixels: NDArray[np.uint8], captions: list[str], tokenizer: CLIPTokenizer) -> Corpus:
    encoded = tokenizer(captions, padding=True, truncation=True, return_tensors="np")
    tokens, lengths = encoded["input_ids"], encoded["attention_mask"].sum(axis=1)
    shape = (len(pixels), CAPTIONS)
    return Corpus(pixels=pixels, tokens=tokens.reshape(*shape, -1), lengths=lengths.reshape(shape))


def pretrain(model: CLIPModel, corpus: Corpus, schedule: Schedule, *, seed: int, bf16: bool = False) -> None:
    """Train `model` in place with the symmetric contrastive loss and a learned temperature."""
    groups = _parameter_groups(model, schedule)
    optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
    started = time.monotonic()
    model.train()
    for step, (pixels, tokens) in enumerate(_batches(corpus, schedule, seed=seed), start=1):
        with _autocast(bf16=bf16):
            logits = model(input_ids=tokens, pixel_values=pixels).logits_per_image.float()
        loss = contrastive_loss(logits)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=LARGEST_SCALE)
        if step % 50 == 0 or step == schedule.steps:
            click.echo(_progress(step, loss, logits, time.monotonic() - started), err=True)


def contrastive_loss(logits: torch.Tensor) -> torch.Tensor:
    """InfoNCE in both directions of logits (B, B), in which pair i is at (i, i)."""
    targets = torch.arange(len(logits))
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


def save(folder: Path, model: CLIPModel, tokenizer: CLIPTokenizer, processor: CLIPImageProcessorPil) -> None:
    """Write the model (float16), its tokenizer and its preprocessing to `folder`."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)


def _parameter_groups(model: CLIPModel, schedule: Schedule) -> list[dict[str, object]]:
    """Weight decay for matrices; none for biases, norms and the temperature."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0},
    ]


def _batches(corpus: Corpus, schedule: Schedule, *, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of pictures, each with one of its captions; every scene is used once before any is repeated."""
    rng = np.random.default_rng(seed)
    mean = torch.tensor(CLIPImageProcessorPil.image_mean).view(3, 1, 1) * 255
    std = torch.tensor(CLIPImageProcessorPil.image_std).view(3, 1, 1) * 255
    batch = min(schedule.batch, len(corpus.pixels))
    order: NDArray[np.intp] = np.empty(0, dtype=np.intp)
    for _ in range(schedule.steps):
        if len(order) < batch:
            order = rng.permutation(len(corpus.pixels))
        rows, order = order[:batch], order[batch:]
        chosen = rng.integers(CAPTIONS, size=batch)
        tokens = corpus.tokens[rows, chosen, : corpus.lengths[rows, chosen].max()]
        pixels = (torch.from_numpy(corpus.pixels[rows]).float() - mean) / std
        yield pixels, torch.from_numpy(tokens)


def _autocast(*, bf16: bool) -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()


def _progress(step: int, loss: torch.Tensor, logits: torch.Tensor, seconds: float) -> str:
    accuracy = (logits.argmax(dim=1) == torch.arange(len(logits))).float().mean()
    return f"step {step}: loss {loss.item():.3f}, in-batch accuracy {accuracy.item():.1%}, {seconds:.0f} s"


if __name__ == "__main__":
    main()
