"""Methods of `EmbeddingStore` on datasets and splits."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from clipstore.api.arguments import AtLeastTwo, File, ProperFraction, checked
from clipstore.api.base import StoreMethods
from clipstore.api.results import Result


class DatasetMethods(StoreMethods):
    """Draw, describe, export and remove splits and datasets."""

    @checked
    def split(
        self,
        name: str,
        *,
        from_: str,
        images: AtLeastTwo | None = None,
        validation: ProperFraction = 0.2,
        seed: int = 42,
    ) -> Result:
        """Draw NAME/train and NAME/val from a split; the same call again changes nothing.

        Args:
            name: The group of the new splits.
            from_: The split to draw from, such as "coco/train2014" (the option --from of the command).
            images: Number of images to draw, each with all its captions; None: all.
            validation: Fraction of the drawn images that goes into NAME/val.
            seed: Another seed draws other images.

        Returns:
            What `clipstore split --json` prints: "splits", a row for each with its "split", "images" and "captions".

        Raises:
            NotFoundError: There is no split `from_`.
            DatasetError: The name is taken by something else, or there are too few images.

        Example:
            >>> store.split("20k", from_="coco/train2014", images=20_000)
        """
        from clipstore.pipeline.split import draw_split

        sizes = draw_split(self._store, name, origin=from_, images=images, validation=validation, seed=seed)
        return Result({"splits": sizes})

    @checked
    def datasets(self) -> Result:
        """List the datasets.

        Returns:
            What `clipstore dataset list --json` prints: "datasets", a row for each with its source and its numbers of
            splits, images and captions.

        Raises:
            NotFoundError: There is no store.

        Example:
            >>> store.datasets()["datasets"]
        """
        from clipstore.store.datasets import list_datasets

        return Result({"datasets": list_datasets(self._store)})

    @checked
    def splits(self) -> pa.Table:
        """List the splits.

        Returns:
            The Arrow table of `clipstore query splits`: one row for each split with its size and its source.

        Raises:
            NotFoundError: There is no store.

        Example:
            >>> store.splits().to_pylist()
        """
        from clipstore.pipeline.query import run_query

        return run_query(self._store, "splits", ())

    @checked
    def stats(self, split: str, *, plots: File | None = None) -> Result:
        """Count the captions, words, repeats and categories of a split.

        Args:
            split: The split.
            plots: Also draw the numbers into this HTML file, which needs no network.

        Returns:
            What `clipstore stats --json` prints: "split"; counts of images ("images", "missing_photos",
            "images_without_captions"), of captions ("captions", "hard_negatives" among them, "distinct_captions",
            "repeated", "repeated_within_an_image", "repeated_texts", "texts_at_several_images", "mean_captions" per
            image) and of
            words ("words", "vocabulary", and per caption "shortest", "longest", "mean_words", "median_words"); and
            tables, lists of rows ("captions_per_image", "caption_lengths", "categories", "frequent_words",
            "longest_captions", "repeated_captions").

        Raises:
            NotFoundError: There is no such split.
            FileAccessError: `plots` cannot be written.

        Example:
            >>> store.stats("coco/train2014")["mean_captions"]
        """
        from clipstore.pipeline.stats import split_stats

        numbers = split_stats(self._store, split)
        if plots is not None:
            from clipstore.reporting.plots import write_stats

            write_stats(Path(plots), numbers)
        return Result(numbers)

    @checked
    def export_csv(self, folder: File, *, from_: str | None = None, safe_csv: bool = True) -> Result:
        """Export a split, and the splits drawn from it, as CSV files that `ingest_csv` reads.

        Args:
            folder: The folder to write to. Image paths below it are written relative to it, others absolute.
            from_: The split that others were drawn from; None: the only one there is.
            safe_csv: Put an apostrophe before text that a spreadsheet would run as a formula.

        Returns:
            What `clipstore export csv --json` prints: "folder" and "files", a row for each with its "file", "split",
            "rows" and "escaped", the number of fields that `safe_csv` changed.

        Raises:
            NotFoundError: There is no such split.
            DatasetError: No split was drawn, `from_` is needed to choose one, or a file exists with other contents.

        Example:
            >>> store.export_csv("/data/coco", from_="coco/train2014")
        """
        from clipstore.pipeline.export import export_csv

        files = export_csv(self._store, Path(folder), origin=from_, safe=safe_csv)
        return Result({"folder": str(folder), "files": files})

    @checked
    def remove_split(self, name: str, *, dry_run: bool = False) -> Result:
        """Remove a split with its evaluations, and the images that no other split has. There is no confirmation.

        Args:
            name: A split of a dataset, such as "coco/val2017", or a group of drawn splits, such as "20k".
            dry_run: Only report what would be removed.

        Returns:
            What `clipstore split remove --json` prints: "what" (its name), "removed" (counts by kind) and "remains"
            (sentences).

        Raises:
            NotFoundError: There is no such split.
            RemovalError: Other splits were drawn from it, or it is the only one of its dataset.

        Example:
            >>> store.remove_split("20k", dry_run=True)["removed"]
        """
        from clipstore.pipeline.removal import remove_split

        return Result(remove_split(self._store, name, dry_run=dry_run).row())

    @checked
    def remove_dataset(self, name: str, *, dry_run: bool = False) -> Result:
        """Remove a dataset with its images, captions, splits and evaluations. There is no confirmation.

        Its files and its vectors stay: vectors are reused when it is ingested again.

        Args:
            name: The dataset.
            dry_run: Only report what would be removed.

        Returns:
            What `clipstore dataset remove --json` prints: "what", "removed" and "remains", as in `remove_split`.

        Raises:
            NotFoundError: There is no such dataset.

        Example:
            >>> store.remove_dataset("flickr8k")
        """
        from clipstore.pipeline.removal import remove_dataset

        return Result(remove_dataset(self._store, name, dry_run=dry_run).row())
