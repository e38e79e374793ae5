"""Methods of `EmbeddingStore` on vectors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipstore import choices
from clipstore.api.arguments import Array, File, Fraction, Names, Positive, ShowProgress, Size, checked, names
from clipstore.api.base import StoreMethods
from clipstore.api.progress import progress_of
from clipstore.api.results import EmbedResult, Result


class VectorMethods(StoreMethods):
    """Embed, read, import and export vectors."""

    @checked
    def embed(  # noqa: PLR0913  (the options of the command)
        self,
        model: Names,
        *,
        split: Names | None = None,
        only: choices.ItemKindChoice | None = None,
        precision: choices.PrecisionChoice = "auto",
        store_dtype: choices.StoredTypeChoice = "float32",
        memory: Size = "8GB",
        device: Names | None = None,
        ray: str | None = None,
        ray_cpus: Positive | None = None,
        compile: bool = False,  # noqa: A002
        retry_failed: bool = False,
        max_failed: Fraction | None = None,
        dry_run: bool = False,
        progress: ShowProgress = None,
    ) -> EmbedResult:
        """Embed the images and captions that have no vectors yet.

        Safe to interrupt: completed shards are registered, and the same call resumes.

        Args:
            model: One or several models; an image is decoded once for all of them.
            split: One or several splits; None: the whole catalog.
            only: "images" or "captions"; None: both.
            precision: What the model computes in: "auto", "fp32", "bf16" or "fp16". "auto" is the precision that the
                model, or one of the same base, was embedded in before; else fp16 on CUDA, bf16 on CPUs with native
                bf16, fp32 elsewhere.
            store_dtype: Data type of new vectors, "float32" or "float16".
            memory: Memory budget of the model on its device, such as "8GB" or a number of bytes.
            device: One or several devices, such as "cuda:1"; None: CUDA if available. Several have one process each,
                which a script starts only below `if __name__ == "__main__":`.
            ray: The address of a Ray cluster, "auto" or "host:port", whose nodes embed; not together with `device`. See
                "More than one machine" in the documentation.
            ray_cpus: CPUs of each worker on the cluster, which then uses no GPU; None: a worker per GPU, or per node
                with all of its CPUs if there is no GPU.
            compile: Compile the model with torch first.
            retry_failed: Try again the items that failed before.
            max_failed: Largest fraction of a tower's items that may fail or be missing; None: all may.
            dry_run: Only estimate the number of items, the bytes and the seconds.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore embed --json` prints: "embedded", a row for each tower with "model", "tower", "fingerprint",
            counts of distinct items ("planned", "done", "reused", "failed", "missing", "cut"), "size" in bytes and
            "seconds".

        Raises:
            NotFoundError: There is no such model or split.
            ModelError: A model cannot be loaded, its vectors were imported, or more items than `max_failed` failed;
                vectors of the others are stored.
            ShardError: A shard cannot be written.
            ClusterError: The Ray cluster does not answer, or a node has other versions, sees other files or fails.

        Example:
            >>> store.embed("pretrained", split="coco/val2017", progress=True)
        """
        from clipstore.pipeline.embed.run import EmbedOptions, embed
        from clipstore.pipeline.embed.summary import check_failures

        with progress_of(progress) as display:
            options = EmbedOptions(
                splits=names(split),
                only=only,
                precision=precision,
                store_dtype=store_dtype,
                memory=choices.size_in_bytes(memory),
                devices=names(device),
                ray=ray,
                ray_cpus=ray_cpus,
                compiled=compile,
                retry_failed=retry_failed,
                dry_run=dry_run,
                on_progress=display,
            )
            summaries = embed(self._store, names(model), options)
        if max_failed is not None:
            check_failures(summaries, share=max_failed)
        return EmbedResult({"embedded": [asdict(summary) for summary in summaries]})

    @checked
    def vectors(
        self, model: str, split: str, kind: choices.ItemKindChoice, *, ids: choices.IdKindChoice = "source"
    ) -> tuple[NDArray[np.int64 | np.str_], NDArray[np.floating[Any]]]:
        """Read the stored vectors of a split's images or captions.

        Items without a vector are not included.

        Args:
            model: The model.
            split: The split.
            kind: "images" or "captions".
            ids: "source": the dataset's own ids, int64 where all are integers, else strings. "catalog": `image_id` or
                `caption_id` of the catalog (int64), for joins in SQL.

        Returns:
            The ids (N,) and the vectors (N, D), of unit length, float32 or (where stored so) float16.

        Raises:
            NotFoundError: There is no such model or split.
            VectorError: The model was never embedded, or two items of the split have the same source id.

        Example:
            >>> ids, vectors = store.vectors("full", "coco/val2017", "images")
        """
        from clipstore.store.vectors import read_vectors

        return read_vectors(self._store, model, split, kind, ids=ids)

    @checked
    def import_vectors(
        self, name: str, split: str, *, images: Array, image_ids: Array, captions: Array, caption_ids: Array
    ) -> Result:
        """Import vectors made elsewhere as a model. They are scaled to unit length.

        An item imported before under this name gets its new vector, and the model's evaluations are removed.

        Args:
            name: The name of the model.
            split: The split whose items the vectors belong to; not all of its items need to be included.
            images: Image vectors (N, D) of a floating dtype: an array or the path of a .npy file.
            image_ids: The source ids (N,) of the images, integers or strings: an array or the path of a .npy file.
            captions: Caption vectors (M, D), likewise.
            caption_ids: The source ids (M,) of the captions, likewise.

        Returns:
            What `clipstore import --json` prints: "imported", a row for each tower with "model", "tower", "rows",
            "not_unit" (rows that were not of unit length) and "zero" (rows of zeros).

        Raises:
            VectorError: Shapes do not fit, a value is not finite, or an id is unknown or occurs twice.
            ModelError: The name is a job's or another model's.
            NotFoundError: There is no such split.

        Example:
            >>> store.import_vectors(
            ...     "siglip", "coco/val2017", images=images, image_ids=image_ids, captions="w.npy", caption_ids="c.npy"
            ... )
        """
        from clipstore.pipeline.import_vectors import import_vectors

        sides = (_source(images), _source(image_ids)), (_source(captions), _source(caption_ids))
        return Result({"imported": import_vectors(self._store, name, split, images=sides[0], captions=sides[1])})

    @checked
    def export_vectors(self, model: str, split: str, folder: File, *, partial: bool = False) -> Result:
        """Export a split's vectors as numpy and parquet files in the layout of clip-retrieval, one row per caption.

        Args:
            model: The model.
            split: The split.
            folder: A new folder, for img_emb/img_emb_0.npy, text_emb/text_emb_0.npy and metadata/metadata_0.parquet.
            partial: Export the items embedded so far.

        Returns:
            What `clipstore export vectors --json` prints: "folder", "rows", "left_out_images", "left_out_captions",
            "pending_images", "pending_captions" and "warnings".

        Raises:
            NotFoundError: There is no such model or split.
            VectorError: The folder exists, or items have no vectors yet (and not `partial`).

        Example:
            >>> store.export_vectors("demo", "scenes/val", "out")["rows"]
        """
        from clipstore.pipeline.export import export_vectors

        return Result(export_vectors(self._store, model, split, Path(folder), partial=partial))


def _source(array: Array) -> Path | NDArray[Any]:
    return Path(array) if isinstance(array, str) else array
