"""The contrastive loss of a batch and its gradient, in one piece or in chunks that need the memory of one chunk.

A contrastive loss L hangs on all vectors v_1 … v_B of a batch, so that activations of the whole batch would have to be
held for its gradient. By the chain rule dL/dw = Σ_i (dL/dv_i) (dv_i/dw), and dL/dv_i needs the vectors alone: they are
made first without their activations, L is differentiated by them, and then chunk after chunk is made again, now with
activations, and sent back the part of dL/dv that is its own (Gao et al., "Scaling Deep Contrastive Learning Batch Size
under Memory Limited Setup", 2021). Dropout must fall alike both times: each chunk begins at the state of the random
numbers that it had.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import cross_entropy, normalize


class Learner(Protocol):
    """What is trained: two towers whose weights take gradients."""

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by name."""

    def train(self, *, on: bool) -> None:
        """Turn dropout on or off."""

    def scale(self) -> torch.Tensor:
        """What scores are multiplied by."""

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
        image: (B,), a number that two rows share when they have the same image.
    """

    images: torch.Tensor
    ids: list[list[int]]
    image: torch.Tensor

    def texts(self) -> torch.Tensor:
        """(B,), a number that two rows share when their captions have the same token ids."""
        numbers: dict[tuple[int, ...], int] = {}
        return torch.tensor([numbers.setdefault(tuple(one), len(numbers)) for one in self.ids], dtype=torch.long)

    def chunks(self, size: int) -> Iterator[Batch]:
        """The pairs in runs of `size`."""
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

    Vectors (B, dim) are scaled to unit length, and all is computed in float32. With `image` (B,), two rows of one image
    are not each other's negatives: they do not count in each other's sum. With `text` (B,), two rows of one text are
    not, either.
    """
    scores = scale.float() * normalize(images.float()) @ normalize(texts.float()).T
    for number in (image, text):
        if number is not None:
            alike = (number[:, None] == number[None, :]).fill_diagonal_(fill_value=False)
            scores = scores.masked_fill(alike.to(scores.device), -torch.inf)
    right = torch.arange(len(scores), device=scores.device)
    return (cross_entropy(scores, right) + cross_entropy(scores.T, right)) / 2


def backward(
    learner: Learner, batch: Batch, *, chunk: int, mask_siblings: bool, mask_duplicates: bool = False
) -> float:
    """Add the gradient of a batch's loss to the learner's weights; the loss.

    No more than `chunk` pairs have their activations held at once. The masks are those of `records.Training`.
    """
    if len(batch.ids) <= chunk:
        masks = _masks(batch, siblings=mask_siblings, duplicates=mask_duplicates)
        loss = contrastive_loss(*_vectors(learner, batch), learner.scale(), *masks)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()
    # Neighbours of like length leave little to pad, and the loss does not hang on the order.
    order = sorted(range(len(batch.ids)), key=lambda row: len(batch.ids[row]))
    batch = Batch(images=batch.images[order], ids=[batch.ids[row] for row in order], image=batch.image[order])
    return _in_chunks(learner, batch, chunk, _masks(batch, siblings=mask_siblings, duplicates=mask_duplicates))


def _masks(batch: Batch, *, siblings: bool, duplicates: bool) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What rows of a batch are not each other's negatives by: the numbers of their images, those of their texts."""
    return batch.image if siblings else None, batch.texts() if duplicates else None


def _in_chunks(
    learner: Learner, batch: Batch, chunk: int, masks: tuple[torch.Tensor | None, torch.Tensor | None]
) -> float:
    states, made = [], []
    with torch.no_grad():
        for part in batch.chunks(chunk):
            states.append(random_state())
            made.append(_vectors(learner, part))
    images, texts = (torch.cat(side).requires_grad_() for side in zip(*made, strict=True))
    loss = contrastive_loss(images, texts, learner.scale(), *masks)
    loss.backward()  # type: ignore[no-untyped-call]
    for number, (part, state) in enumerate(zip(batch.chunks(chunk), states, strict=True)):
        own = slice(number * chunk, (number + 1) * chunk)
        set_random_state(state)
        again = [
            (vectors, whole.grad[own])
            for vectors, whole in zip(_vectors(learner, part), (images, texts), strict=True)
            if vectors.requires_grad and whole.grad is not None
        ]
        torch.autograd.backward([vectors for vectors, _ in again], [gradient for _, gradient in again])
    return loss.item()


def _vectors(learner: Learner, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and text vectors in float32, whatever the towers compute in."""
    return learner.image_vectors(batch.images).float(), learner.text_vectors(batch.ids).float()


def random_state() -> list[torch.Tensor]:
    """The state of torch's random numbers: the CPU's, then each CUDA device's."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def set_random_state(state: list[torch.Tensor]) -> None:
    """Go back to a state."""
    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state_all(state[1:])
