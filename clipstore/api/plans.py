"""Methods of `EmbeddingStore` on plan files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from clipstore import choices
from clipstore.api.arguments import File, Files, Names, ShowProgress, Size, checked, names
from clipstore.api.base import StoreMethods
from clipstore.api.progress import progress_of
from clipstore.api.results import Result

Task = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]


class PlanMethods(StoreMethods):
    """Write, encode and register plan files."""

    @checked
    def plan(  # noqa: PLR0913  (the options of the command)
        self,
        model: Names,
        out: File,
        *,
        split: Names | None = None,
        only: choices.ItemKindChoice | None = None,
        precision: choices.PrecisionChoice = "auto",
        store_dtype: choices.StoredTypeChoice = "float32",
        items: Count | None = None,
        memory: Size = "8GB",
        device: str | None = None,
        retry_failed: bool = False,
        progress: ShowProgress = None,
    ) -> Result:
        """Write what `embed` would encode as plan files, which any machine can encode without the catalog.

        Args:
            model: One or several models; an image is decoded once for all of them.
            out: The folder for the plan files.
            split: One or several splits; None: the whole catalog.
            only: "images" or "captions"; None: both.
            precision: As in `embed`; "auto" is decided on this machine.
            store_dtype: Data type of the vectors, "float32" or "float16".
            items: Largest number of items of a plan and of its shard; None: 1,024 images, 8,192 captions.
            memory: Device memory budget of an encoding process, such as "8GB" or a number of bytes.
            device: Device for a sample of the model; None: CUDA if available.
            retry_failed: Plan items again that failed before.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore plan --json` prints: "folder", "store" (the id of the store), "planned" (a row for each
            tower, with counts of items), "deferred" (by model the images that wait for another model's features) and
            "plans", each with "file", "models", "tower" and "items".

        Raises:
            NotFoundError: There is no such model or split.
            ModelError: A model cannot be loaded, or its vectors were imported.
            PlanError: The folder has other plans.

        Example:
            >>> store.plan("pretrained", "plans", split="coco/val2017")
        """
        from clipstore.pipeline.embed.options import EmbedOptions
        from clipstore.pipeline.plans.write import write_plans

        with progress_of(progress) as display:
            options = EmbedOptions(
                splits=names(split),
                only=only,
                precision=precision,
                store_dtype=store_dtype,
                memory=choices.size_in_bytes(memory),
                devices=(device,) if device else (),
                retry_failed=retry_failed,
                on_progress=display,
            )
            written = write_plans(self._store, names(model), Path(out).absolute(), options, items=items)
        return Result(written.row())

    @checked
    def encode(
        self,
        plans: Files,
        *,
        task: Task = 0,
        tasks: Count = 1,
        device: str | None = None,
        progress: ShowProgress = None,
    ) -> Result:
        """Encode plan files into shards in this store's folder, without its catalog.

        Args:
            plans: One or several folders that `plan` wrote, or files in them.
            task: The number of this task, from 0.
            tasks: The number of tasks that share the plans.
            device: A device such as "cuda:1"; None: CUDA if available.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore encode --json` prints: "encoded", a row for each plan with "plan", "models", "tower",
            "encoded" (False: it was complete before), "items", "failed" and "cut".

        Raises:
            PlanError: A plan file is damaged, of another store or of another format, or the images are not there.
            ModelError: A model cannot be loaded, or differs from the one that was planned.

        Example:
            >>> store.encode("plans", task=3, tasks=8)
        """
        from clipstore.inference.encode_plans import EncodeOptions, encode_plans, select_plans

        paths = [plans] if isinstance(plans, str | Path) else plans
        files = select_plans([Path(path) for path in paths], task=task, tasks=tasks)
        with progress_of(progress) as display:
            options = EncodeOptions(root=self._store.root, device=device, on_progress=display)
            return Result({"encoded": [asdict(result) for result in encode_plans(files, options)]})

    @checked
    def register(self, plans: File, *, progress: ShowProgress = None) -> Result:
        """Verify and register the shards of encoded plans. Safe to call at any time, and again.

        Args:
            plans: A folder that `plan` wrote.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore register --json` prints: "plans", "registered", "items", "failed", "before" (plans that
            were registered before), "missing" (plans that were not encoded yet) and "problems" ("plan", "reason").

        Raises:
            PlanError: The folder has no plans, those of another store, or plans whose shards are not as they were
                encoded.

        Example:
            >>> store.register("plans")["missing"]
        """
        from clipstore.pipeline.plans.register import check_problems, register_plans

        with progress_of(progress) as display:
            result = register_plans(self._store, Path(plans).absolute(), display)
        check_problems(result, Path(plans), allowed=result.failed)
        return Result(asdict(result))
