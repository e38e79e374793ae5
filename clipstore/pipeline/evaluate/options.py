"""The options of an evaluation."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import cast

from clipstore import choices
from clipstore.errors import OptionError
from clipstore.hints import RERANK_TOP
from clipstore.progress import Progress, no_progress
from clipstore.protocols import PROTOCOLS, first_captions
from clipstore.records import CaptionSet, ScreenPrecision

TOP_K = 10  # hits stored of each query


def _environment_screen() -> ScreenPrecision:
    """The value of CLIPSTORE_SCREEN, or "auto" when it is not set.

    Raises:
        OptionError: the variable has another value.
    """
    value = os.environ.get("CLIPSTORE_SCREEN") or "auto"
    choices.check_value("CLIPSTORE_SCREEN", value, choices.SCREENS)
    return cast("ScreenPrecision", value)


def check_top(top: int) -> None:
    """Check a number of candidates.

    Raises:
        OptionError: it is out of range.
    """
    if not 1 <= top < 2**31:  # the catalog stores it; no split has more
        message = f"cannot rerank {top} candidates: use at least one, and fewer than {2**31:,}"
        raise OptionError(message)


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
        rerank: the model by whose matching scores the first candidates are ordered again; None: they are not.
        rerank_top: the number of these candidates; a query with fewer has all reranked.
        rerank_weight: the weight of the first-stage score, which is added to the matching logit.
        ray: the Ray cluster whose workers rank, "auto" or host:port; None: this process. `memory` is then the budget of
            this process and of each worker.
        ray_cpus: the CPUs of each worker; None: one worker on each node, with all of its CPUs.

    Raises:
        OptionError: a value is out of range, an option is set without the one that it belongs to, or `ray` is combined
            with something that workers do not do.
    """

    protocol: choices.ProtocolChoice = "standard"
    captions: choices.CaptionsChoice | None = None
    partial: bool = False
    memory: int = choices.DEFAULT_MEMORY
    device: str = "cpu"
    screen: choices.ScreenChoice = field(default_factory=_environment_screen)
    unseen: bool = False
    rerank: str | None = None
    rerank_top: int = RERANK_TOP
    rerank_weight: float = 1.0
    ray: str | None = None
    ray_cpus: int | None = None
    on_progress: Progress = no_progress

    def __post_init__(self) -> None:
        choices.check(self)
        if PROTOCOLS[self.protocol].hard_negatives and self.captions == "first5":
            message = f"--protocol {self.protocol} compares all captions with hard negatives: omit --captions first5"
            raise OptionError(message)
        if PROTOCOLS[self.protocol].hard_negatives and self.rerank is not None:
            message = f"--protocol {self.protocol} has no candidates to order again: omit --rerank"
            raise OptionError(message)
        if self.rerank is None and (self.rerank_top, self.rerank_weight) != (RERANK_TOP, 1.0):
            message = "--top and --rerank-weight are settings of a reranker: name it with --rerank"
            raise OptionError(message)
        self._check_ray()
        check_top(self.rerank_top)
        if not 0 <= self.rerank_weight < math.inf:
            message = f"cannot rerank with the weight {self.rerank_weight}: use a finite weight of at least 0"
            raise OptionError(message)
        object.__setattr__(self, "rerank_weight", self.rerank_weight + 0.0)  # -0.0 is 0.0: one name for one result

    def _check_ray(self) -> None:
        if self.ray is None:
            if self.ray_cpus is not None:
                message = "--ray-cpus is an option of --ray: add --ray auto or --ray HOST:PORT"
                raise OptionError(message)
            return
        if self.ray_cpus is not None and self.ray_cpus < 1:
            message = f"a worker cannot have {self.ray_cpus} CPUs: use at least 1"
            raise OptionError(message)
        if self.device != "cpu":
            message = f"the workers of a Ray cluster rank on CPUs: omit --ray or --device {self.device}"
            raise OptionError(message)
        if PROTOCOLS[self.protocol].hard_negatives:
            message = f"--protocol {self.protocol} has nothing to rank: omit --ray"
            raise OptionError(message)

    @property
    def caption_set(self) -> CaptionSet:
        """The captions in the gallery: "all" or "first5"."""
        return self.captions or PROTOCOLS[self.protocol].caption_set

    @property
    def first_captions(self) -> int | None:
        """Returns the number of captions of each image in the gallery, or None for all."""
        return first_captions(self.caption_set)
