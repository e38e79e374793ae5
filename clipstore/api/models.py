"""Methods of `EmbeddingStore` on models."""

from __future__ import annotations

import logging
from pathlib import Path

from clipstore import choices
from clipstore.api.arguments import File, checked
from clipstore.api.base import StoreMethods
from clipstore.api.results import Result

_log = logging.getLogger(__name__)


class ModelMethods(StoreMethods):
    """Record, describe, export and remove models."""

    @checked
    def add_model(
        self,
        name: str,
        *,
        base: str,
        family: str | None = None,
        adapter: str | None = None,
        exif_orientation: bool = False,
    ) -> Result:
        """Record a model under a name. Doubts about its files are logged as warnings.

        Args:
            name: The new name; the same call again changes nothing.
            base: A hub id, a local folder, or "bundled:demo".
            family: The family of the model; None: recognised from the files of the base.
            adapter: A PEFT folder to put on the base.
            exif_orientation: Turn images upright as their EXIF data says, which CLIP does not do.

        Returns:
            What `clipstore model add --json` prints, with the keys of `model`.

        Raises:
            ModelError: The name is a job's or another model's, or the files of the model cannot be used.
            BadNameError: The name is not allowed.
            JobError: `family` is unknown.

        Example:
            >>> store.add_model("tuned", base="openai/clip-vit-base-patch32", adapter="runs/tuned/best")
        """
        from clipstore.store.model_records import add_model
        from clipstore.store.models import show_model

        add_model(
            self._store,
            name,
            base=base,
            family=family,
            adapter=adapter,
            exif_orientation=exif_orientation,
            on_warning=_log.warning,
        )
        return Result(show_model(self._store, name))

    @checked
    def models(self, *, split: str | None = None) -> Result:
        """List every model that can be named: jobs of ./jobs, packaged jobs, and models recorded in the store.

        Args:
            split: Also give the stored evaluations on this split.

        Returns:
            What `clipstore model list --json` prints: "models", a row for each with its "name", "from" (a job file,
            "job", "added" or "imported"), "problem" (None, or why it cannot be used), "family", "base", "adapter",
            "parameters" (of the base) and "adapter_parameters", "input_size" in pixels, "dim", "precision",
            "files_problem" (why the former are unknown), "images", "captions" and "failures" of its towers, "bytes" and
            "own_bytes" of its shards, "shared_towers" (other models by tower), and with `split` "evaluations".

        Raises:
            NotFoundError: There is no such split.

        Example:
            >>> [row["name"] for row in store.models()["models"]]
        """
        from clipstore.pipeline.models import model_table

        return Result({"models": model_table(self._store, split)})

    @checked
    def model(
        self,
        name: str,
        *,
        split: str | None = None,
        measure: bool = False,
        store_dtype: choices.StoredTypeChoice = "float32",
    ) -> Result:
        """Describe a model, what the store holds of it, and what embedding a split will cost.

        Args:
            name: The model: a name or the path of a job file.
            split: The split that is to be embedded.
            measure: Load the model and measure the time of embedding the split.
            store_dtype: "float32" or "float16": the data type of new vectors.

        Returns:
            What `clipstore model show --json` prints: "name", "family", "base", "adapter", "prompt", "clean",
            "exif_orientation", "from" and "towers" (fingerprint, precision, dimension and number of vectors of each).
            With `split` also "embedding": "towers" (for images and captions the numbers "to_embed", "stored",
            "failed", "missing" and "unread", the "bytes" of the shards, the "seconds" and the "sample" that was
            measured), and "bytes" and "seconds" (None without `measure`) in all.

        Raises:
            NotFoundError: There is no such model or split.
            ModelError: With `split`: the files of the model are missing or damaged, or its vectors were imported.
            OptionError: `measure` without `split`.

        Example:
            >>> store.model("demo")["towers"]
        """
        from clipstore.pipeline.models import model_description

        return Result(model_description(self._store, name, split, measure=measure, store_dtype=store_dtype))

    @checked
    def export_model(self, name: str, folder: File, *, merged: bool = False) -> Result:
        """Export a model for other programs.

        Args:
            name: The model.
            folder: A new folder.
            merged: Write base and adapter as one model that transformers' `from_pretrained` opens; else the adapter
                alone.

        Returns:
            What `clipstore export model --json` prints: "model", "folder" and "merged".

        Raises:
            NotFoundError: There is no such model.
            ModelError: The folder exists, the vectors were imported, or the model has no adapter (and not `merged`).

        Example:
            >>> store.export_model("full", "models/full", merged=True)
        """
        from clipstore.pipeline.export import export_model

        path = export_model(self._store, name, Path(folder), merged=merged)
        return Result({"model": name, "folder": path, "merged": merged})

    @checked
    def remove_model(self, name: str, *, adapter: bool = False, dry_run: bool = False) -> Result:
        """Remove a model and its evaluations from the store. There is no confirmation.

        Its vectors stay until `gc`.

        Args:
            name: The model.
            adapter: Also delete the weights that training wrote to STORE/adapters/NAME.
            dry_run: Only report what would be removed.

        Returns:
            What `clipstore model remove --json` prints: "what", "removed" and "remains", as in `remove_split`.

        Raises:
            NotFoundError: The store holds no such model.
            TrainingError: The model is being trained.

        Example:
            >>> store.remove_model("tuned")
        """
        from clipstore.pipeline.removal import remove_model

        return Result(remove_model(self._store, name, adapter=adapter, dry_run=dry_run).row())
