"""The options of a zero-shot classification."""

from __future__ import annotations

from dataclasses import dataclass

from clipstore import choices
from clipstore.errors import OptionError
from clipstore.pipeline.zeroshot.templates import DEFAULT_TEMPLATES, check_templates
from clipstore.progress import Progress, no_progress

DEFAULT_TOP = (1, 5)


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions:
    """The options of a zero-shot classification.

    Attributes:
        labels: "single": each image has exactly one class; "multi": any number. None: single if the images of the split
            have exactly one each, else multi.
        templates: texts with {} for the name of a class.
        top: the k of accuracy@k or hit_rate@k; None: those of DEFAULT_TOP up to the number of classes.
        partial: classify the images embedded so far.
        memory: device memory of the text tower, and the budget of the scores, in bytes.
        device: the torch device of the text tower; None: CUDA if available, else the CPU.
    """

    labels: choices.LabelsChoice | None = None
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    top: tuple[int, ...] | None = None
    partial: bool = False
    memory: int = choices.DEFAULT_MEMORY
    device: str | None = None
    on_progress: Progress = no_progress

    def __post_init__(self) -> None:
        choices.check(self)
        check_templates(self.templates)

    def top_of(self, classes: int) -> list[int]:
        """The k of the metrics among a number of classes, in order.

        Raises:
            OptionError: a named k is not from 1 to the number of classes.
        """
        if self.top is None:
            return [k for k in DEFAULT_TOP if k <= classes]
        for k in self.top:
            if not 1 <= k <= classes:
                message = f"top {k} is not possible among {classes} classes: give --top from 1 to {classes}"
                raise OptionError(message)
        return sorted(set(self.top))
