"""The options of `clipstore report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipstore import choices
from clipstore.progress import Progress, no_progress
from clipstore.store.evaluations import eval_commands
from clipstore.store.layout import Store

INLINE_IMAGES = 5_000  # the default: with more images, thumbnails go into a folder


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What to report, and where to write it.

    Attributes:
        splits: the splits; none: all on which the models were evaluated.
        models: the models, the baseline first; none: all that were evaluated.
        protocol, captions, unseen: which evaluations to report, as options of `clipstore eval`.
        out: the file; None: `reports/report.html` in the store.
        thumbnails: "inline", or "folder" beside the file; None: inline up to INLINE_IMAGES.
        map: how vectors are projected: "umap", "tsne" or "none".
        on_progress: called while vectors are projected and thumbnails are made.
    """

    splits: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    protocol: choices.ProtocolChoice = "standard"
    captions: choices.CaptionsChoice | None = None
    unseen: bool = False
    out: Path | None = None
    thumbnails: choices.ThumbnailsChoice | None = None
    map: choices.MapChoice = "umap"
    on_progress: Progress = no_progress

    def __post_init__(self) -> None:
        choices.check(self)

    def query_parameters(self) -> dict[str, str]:
        """The parameters of named queries that select these evaluations; defaults are left out."""
        parameters: dict[str, str] = {} if self.protocol == "standard" else {"protocol": self.protocol}
        parameters |= {"captions": self.captions} if self.captions else {}
        return parameters | ({"unseen": "true"} if self.unseen else {})

    def eval_command(self, store: Store, split: str, models: Sequence[str] = ()) -> str:
        """The command that computes these evaluations."""
        return eval_commands(store, models, split, protocol=self.protocol, captions=self.captions, unseen=self.unseen)
