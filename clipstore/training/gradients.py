"""The contrastive loss of a batch and its gradient, in one piece or in chunks that need the memory of one chunk.

A contrastive loss L depends on all vectors v_1 … v_B of a batch, so that a plain backward pass needs the activations of
the whole batch. By the chain rule dL/dw = Σ_i (dL/dv_i) (dv_i/dw), and dL/dv_i depends on the vectors alone. So the
vectors are first computed without keeping activations, and L is differentiated by them. Then each chunk is computed
again, now with activations, and its part of dL/dv is propagated back (Gao et al., "Scaling Deep Contrastive Learning
Batch Size under Memory Limited Setup", 2021). Dropout must be the same both times: each chunk is recomputed from the
state of the random number generators that it had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import cross_entropy, normalize


class Learner(Protocol):
    """Two towers with trainable weights."""

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """The trained weights, by name."""

    def train(self, *, on: bool) -> None:
        """Turn dropout on or off."""

    def scale(self) -> torch.Tensor:
        """The factor of scores: the inverse of the temperature."""

    def image_vectors(self, images: torch.Tensor) -> torch.Tensor:
        """Vectors (B, dim) of a batch of images."""

    def text_vectors(self, ids: list[list[int]]) -> torch.Tensor:
        """Vectors (B, dim) of token ids."""

    def clamp_scale(self) -> None:
        """Keep the scale within its limit; called after each step."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pairs of an image and a caption.

    Attributes:
        images: (B, features_dim) backbone features, or (B, height, width, 3) uint8 pixels.
        ids: token ids of each caption.
        image: (B,), image numbers: equal in rows of the same image.
    """

    images: torch.Tensor
    ids: list[list[int]]
    image: torch.Tensor

    def text_numbers(self) -> torch.Tensor:
        """(B,), text numbers: equal in rows whose captions have the same token ids."""
        numbers: dict[tuple[int, ...], int] = {}
        return torch.tensor([numbers.setdefault(tuple(ids), len(numbers)) for ids in self.ids], dtype=torch.long)

    def chunks(self, size: int) -> Iterator[Batch]:
        """The pairs in consecutive chunks of `size`."""
        for start in range(0, len(self.ids), size):
            part = slice(start, start + size)
            yield Batch(images=self.images[part], ids=self.ids[part], image=self.image[part])


def contrastive_loss(
    images: torch.Tensor,
    texts: torch.Tensor,
    scale: torch.Tensor,
    image: torch.Tensor | None = None,
    text: torch.Tensor | None = None,
) -> torch.Tensor:
    """InfoNCE in both directions, averaged (CLIP: Radford et al., 2021); row i of `images` belongs to row i of `texts`.

    Vectors (B, dim) are normalised, and everything is computed in float32. With `image` (B,), rows with equal numbers
    are not used as each other's negatives: they are left out of each other's sums. Likewise with `text` (B,).
    """
    scores = scale.float() * normalize(images.float()) @ normalize(texts.float()).T
    for number in (image, text):
        if number is not None:
            equal = (number[:, None] == number[None, :]).fill_diagonal_(fill_value=False)
            scores = scores.masked_fill(equal.to(scores.device), -torch.inf)
    targets = torch.arange(len(scores), device=scores.device)
    return (cross_entropy(scores, targets) + cross_entropy(scores.T, targets)) / 2


def backward(
    learner: Learner, batch: Batch, *, chunk: int, mask_siblings: bool, mask_duplicates: bool = False
) -> float:
    """Add the gradient of a batch's loss to the learner's weights; returns the loss.

    Activations of at most `chunk` pairs are in memory at once. The masks are those of `records.Training`.
    """
    if len(batch.ids) <= chunk:
        masks = _masks(batch, siblings=mask_siblings, duplicates=mask_duplicates)
        loss = contrastive_loss(*_vectors(learner, batch), learner.scale(), *masks)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()
    # Sorted by length, chunks need little padding; the loss does not depend on the order.
    order = sorted(range(len(batch.ids)), key=lambda row: len(batch.ids[row]))
    batch = Batch(images=batch.images[order], ids=[batch.ids[row] for row in order], image=batch.image[order])
    return _in_chunks(learner, batch, chunk, _masks(batch, siblings=mask_siblings, duplicates=mask_duplicates))


def _masks(batch: Batch, *, siblings: bool, duplicates: bool) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The arguments `image` and `text` of `contrastive_loss`."""
    return batch.image if siblings else None, batch.text_numbers() if duplicates else None


def _in_chunks(
    learner: Learner, batch: Batch, chunk: int, masks: tuple[torch.Tensor | None, torch.Tensor | None]
) -> float:
    """`backward` in chunks; see above."""
    states, vectors = [], []
    with torch.no_grad():
        for part in batch.chunks(chunk):
            states.append(random_state())
            vectors.append(_vectors(learner, part))
    images, texts = (torch.cat(side).requires_grad_() for side in zip(*vectors, strict=True))
    loss = contrastive_loss(images, texts, learner.scale(), *masks)
    loss.backward()  # type: ignore[no-untyped-call]
    for number, (part, state) in enumerate(zip(batch.chunks(chunk), states, strict=True)):
        rows = slice(number * chunk, (number + 1) * chunk)
        set_random_state(state)
        outputs = [
            (output, whole.grad[rows])
            for output, whole in zip(_vectors(learner, part), (images, texts), strict=True)
            if output.requires_grad and whole.grad is not None
        ]
        torch.autograd.backward([output for output, _ in outputs], [gradient for _, gradient in outputs])
    return loss.item()


def _vectors(learner: Learner, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and text vectors in float32, for towers of any precision."""
    return learner.image_vectors(batch.images).float(), learner.text_vectors(batch.ids).float()


def random_state() -> list[torch.Tensor]:
    """The state of torch's random number generators: the CPU's, then each CUDA device's."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def set_random_state(state: list[torch.Tensor]) -> None:
    """Restore a state of the random number generators; those of CUDA devices that this machine lacks are left out."""
    torch.set_rng_state(state[0])
    for number in range(min(len(state) - 1, torch.cuda.device_count())):
        torch.cuda.set_rng_state(state[1 + number], number)


@contextmanager
def restored_random_state() -> Iterator[None]:
    """Restore the state of torch's random number generators at the end of the block."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
