"""Methods of `EmbeddingStore` on zero-shot classification."""

from __future__ import annotations

from pathlib import Path

from clipstore import choices
from clipstore.api.arguments import Counts, File, Names, ShowProgress, Size, checked, names
from clipstore.api.base import StoreMethods
from clipstore.api.progress import progress_of
from clipstore.api.results import ClassificationResult, Result


class ZeroShotMethods(StoreMethods):
    """Classify images by texts of their categories."""

    @checked
    def zeroshot(  # noqa: PLR0913  (the options of the command)
        self,
        model: Names | None,
        split: str,
        *,
        templates: File | None = None,
        labels: choices.LabelsChoice | None = None,
        top: Counts | None = None,
        partial: bool = False,
        memory: Size = "8GB",
        device: str | None = None,
        progress: ShowProgress = None,
    ) -> ClassificationResult:
        """Classify the images of a split by texts of their categories, and store ranks and metrics in the catalog.

        The vector of a class is the mean of its name in each template. The same call again replaces the results, and
        encodes no text again.

        Args:
            model: One or several models; None: all with vectors of all images.
            split: The split, whose dataset has categories.
            templates: A text file with a template per line, {} for the class; None: "a photo of a {}.".
            labels: "single" (accuracy) or "multi" (mean average precision); None: single if every image has exactly one
                class, else multi.
            top: One or several K of accuracy@K or hit_rate@K; None: 1 and 5.
            partial: Use the images embedded so far. The result is marked partial.
            memory: Memory budget of the model and of the scores.
            device: Device of the model; None: CUDA if available, else the CPU.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore zeroshot --json` prints. "classifications" has a row for each model with "model", "split",
            "labels", "metrics" (fractions by name), "chance" (their values for a random order), "classes" (images and
            average precision or recall of each), "confusions" (labels single), "measured_on" (the provenance), "reason"
            (why labels are single or multi) and "texts" (numbers encoded and reused). "skipped" has the models that
            were not used, each with its "reason"; "warnings" are lines.

        Raises:
            NotFoundError: There is no such model or split.
            DatasetError: The split has no categories, two of them have one name, or `labels` does not fit.
            OptionError: A template has no {}, or a K is larger than the number of classes.
            VectorError: Vectors of images are missing (and not `partial`).
            ModelError: A model cannot be loaded, or its vectors were imported.

        Example:
            >>> store.zeroshot("full", "coco/val2017")["classifications"][0]["metrics"]["map"]
        """
        from clipstore.pipeline.zeroshot.options import ZeroShotOptions
        from clipstore.pipeline.zeroshot.run import zeroshot
        from clipstore.pipeline.zeroshot.templates import DEFAULT_TEMPLATES, read_templates

        with progress_of(progress) as display:
            options = ZeroShotOptions(
                templates=DEFAULT_TEMPLATES if templates is None else read_templates(Path(templates)),
                labels=labels,
                top=top if top is None else (top,) if isinstance(top, int) else tuple(top),
                partial=partial,
                memory=choices.size_in_bytes(memory),
                device=device,
                on_progress=display,
            )
            return ClassificationResult(vars(zeroshot(self._store, names(model), split, options)))

    @checked
    def remove_classifications(
        self, *, model: str | None = None, split: str | None = None, dry_run: bool = False
    ) -> Result:
        """Remove the zero-shot classifications that match all given options. There is no confirmation.

        Args:
            model: The model whose classifications to remove.
            split: The split whose classifications to remove.
            dry_run: Only report what would be removed.

        Returns:
            What `clipstore zeroshot remove --json` prints: "what", "removed" and "remains", as in `remove_split`.

        Raises:
            RemovalError: No option is given.
            NotFoundError: There is no such split or classification.

        Example:
            >>> store.remove_classifications(model="tuned")
        """
        from clipstore.pipeline.removal import remove_classifications

        return Result(remove_classifications(self._store, model=model, split=split, dry_run=dry_run).row())
