"""The options of an evaluation."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import cast

from clipstore import choices
from clipstore.errors import OptionError
from clipstore.progress import Progress, no_progress
from clipstore.protocols import PROTOCOLS, first_captions
from clipstore.records import CaptionSet, ScreenPrecision


def _environment_screen() -> ScreenPrecision:
    """The value of CLIPSTORE_SCREEN, or "auto" when it is not set.

    Raises:
        OptionError: the variable has another value.
    """
    value = os.environ.get("CLIPSTORE_SCREEN") or "auto"
    choices.check_value("CLIPSTORE_SCREEN", value, choices.SCREENS)
    return cast("ScreenPrecision", value)


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """The options of an evaluation.

    Attributes:
        captions: the captions of each image in the gallery. None: those that the protocol defines.
        partial: evaluate the items embedded so far, also with few queries.
        memory: budget of the ranking in bytes, in addition to the base process.
        device: where the matrix products run.
        screen: the precision of the matrix products (see `rank_pairs`), by default that of the environment variable
            CLIPSTORE_SCREEN, else "auto". It changes the time and never the ranks: it is for tests and benchmarks.
        unseen: restrict the queries to images, and their captions, that none of the models evaluated together was
            trained on.
    """

    protocol: choices.ProtocolChoice = "standard"
    captions: choices.CaptionsChoice | None = None
    partial: bool = False
    memory: int = choices.DEFAULT_MEMORY
    device: str = "cpu"
    screen: choices.ScreenChoice = field(default_factory=_environment_screen)
    unseen: bool = False
    on_progress: Progress = no_progress

    def __post_init__(self) -> None:
        choices.check(self)
        if PROTOCOLS[self.protocol].hard_negatives and self.captions == "first5":
            message = f"--protocol {self.protocol} compares all captions with hard negatives: omit --captions first5"
            raise OptionError(message)

    @property
    def caption_set(self) -> CaptionSet:
        """The captions in the gallery: "all" or "first5"."""
        return self.captions or PROTOCOLS[self.protocol].caption_set

    @property
    def first_captions(self) -> int | None:
        """Returns the number of captions of each image in the gallery, or None for all."""
        return first_captions(self.caption_set)
