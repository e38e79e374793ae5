"""Ingest methods of `EmbeddingStore`."""

from __future__ import annotations

from pathlib import Path

from clipstore.api.arguments import File, Names, checked, names
from clipstore.api.base import StoreMethods
from clipstore.api.results import Result


class IngestMethods(StoreMethods):
    """Read annotations into the catalog. A store that does not exist is created.

    All methods return the same keys: "dataset" (its name), "changes" (rows by what happened to them, such as
    "images_added"), "cleaned" (None without `clean`, else what was dropped, by reason), "splits" (name, images and
    captions of each), "forgotten" (evaluations that were removed because their split changed) and "warnings".
    """

    @checked
    def ingest_coco(
        self,
        root: File,
        *,
        name: str = "coco",
        split: Names | None = None,
        images: File | None = None,
        clean: bool = False,
        replace: bool = False,
        follow_links: bool = False,
    ) -> Result:
        """Ingest COCO annotations and images.

        The same call again changes nothing, except where the annotations have changed.

        Args:
            root: The folder with annotations/captions_<split>.json and the images in <split>/.
            name: The name of the dataset; splits are named NAME/SPLIT.
            split: One or several splits, such as "val2017"; None: all whose annotations exist.
            images: The folder of the image files. Default: ROOT/<split>. Files may be missing: they are counted.
            clean: Clean the captions: lower case, only [a-z0-9 .,'], whitespace collapsed. Repeated captions within an
                image, captions over 40 words and images without a file are dropped.
            replace: Replace what another place gave under the same name.
            follow_links: Accept image files that symbolic links lead out of the source's folder.

        Returns:
            What `clipstore ingest coco --json` prints: "dataset", "changes", "cleaned", "splits", "forgotten" and
            "warnings".

        Raises:
            DatasetError: The annotations are missing or malformed, or differ from those of another place under the
                same name (and not `replace`).
            BadNameError: The dataset or a split has a name that is not allowed.

        Example:
            >>> store.ingest_coco("/data/coco", split="val2017")["splits"]
        """
        from clipstore.pipeline.ingest.run import IngestOptions, ingest_coco

        options = IngestOptions(clean=clean, replace=replace, images=_path(images), follow_links=follow_links)
        return Result(ingest_coco(self._store, Path(root), name=name, splits=names(split), options=options).row())

    @checked
    def ingest_flickr(
        self,
        root: File,
        *,
        name: str | None = None,
        images: File | None = None,
        clean: bool = False,
        replace: bool = False,
        follow_links: bool = False,
    ) -> Result:
        """Ingest Flickr8k or Flickr30k captions, images and splits.

        Args:
            root: The folder with the captions file, the image folder and the split lists.
            name: The name of the dataset. Default: "flickr8k" or "flickr30k", by the captions file.
            images: The folder of the image files. Default: a well-known one below `root`.
            clean: See `ingest_coco`.
            replace: See `ingest_coco`.
            follow_links: See `ingest_coco`.

        Returns:
            What `clipstore ingest flickr --json` prints, with the keys of `ingest_coco`.

        Raises:
            DatasetError: See `ingest_coco`.
            BadNameError: See `ingest_coco`.

        Example:
            >>> store.ingest_flickr("/data/flickr8k")
        """
        from clipstore.pipeline.ingest.run import IngestOptions, ingest_flickr

        options = IngestOptions(clean=clean, replace=replace, images=_path(images), follow_links=follow_links)
        return Result(ingest_flickr(self._store, Path(root), name=name, options=options).row())

    @checked
    def ingest_karpathy(
        self,
        file: File,
        root: File,
        *,
        name: str | None = None,
        clean: bool = False,
        replace: bool = False,
        follow_links: bool = False,
    ) -> Result:
        """Ingest a file of Karpathy's splits, such as dataset_coco.json.

        Args:
            file: The JSON file.
            root: The folder that the image paths in the file start at.
            name: The name of the dataset. Default: the name in the file.
            clean: See `ingest_coco`.
            replace: See `ingest_coco`.
            follow_links: See `ingest_coco`.

        Returns:
            What `clipstore ingest karpathy --json` prints, with the keys of `ingest_coco`.

        Raises:
            DatasetError: See `ingest_coco`.
            BadNameError: See `ingest_coco`.

        Example:
            >>> store.ingest_karpathy("dataset_coco.json", "/data/coco")
        """
        from clipstore.pipeline.ingest.run import IngestOptions, ingest_karpathy

        options = IngestOptions(clean=clean, replace=replace, follow_links=follow_links)
        return Result(ingest_karpathy(self._store, Path(file), Path(root), name=name, options=options).row())

    @checked
    def ingest_csv(
        self,
        file: File,
        *,
        name: str | None = None,
        images: File | None = None,
        clean: bool = False,
        replace: bool = False,
        follow_links: bool = False,
    ) -> Result:
        """Ingest a CSV file of image paths and captions.

        Args:
            file: The file. Its columns are image_path, caption and, optionally, image_id, caption_id and split.
                Without a split column, all rows are NAME/all.
            name: The name of the dataset. Default: the file's name without its suffix.
            images: The folder that relative image paths start at. Default: the folder of the file.
            clean: See `ingest_coco`.
            replace: See `ingest_coco`.
            follow_links: See `ingest_coco`.

        Returns:
            What `clipstore ingest csv --json` prints, with the keys of `ingest_coco`.

        Raises:
            DatasetError: See `ingest_coco`.
            BadNameError: See `ingest_coco`.

        Example:
            >>> store.ingest_csv("captions.csv", name="holidays")
        """
        from clipstore.pipeline.ingest.run import IngestOptions, ingest_csv

        options = IngestOptions(clean=clean, replace=replace, images=_path(images), follow_links=follow_links)
        return Result(ingest_csv(self._store, Path(file), name=name, options=options).row())

    @checked
    def ingest_sugarcrepe(
        self,
        root: File,
        *,
        name: str = "sugarcrepe",
        images: File | None = None,
        replace: bool = False,
        follow_links: bool = False,
    ) -> Result:
        """Ingest SugarCrepe's captions and hard negatives, for `evaluate(…, protocol="hard-negatives")`.

        Args:
            root: The folder with a file for each subset, such as replace_obj.json.
            name: The name of the dataset; its split is NAME/all.
            images: The folder of the images of COCO val2017. Default: `root`. Files may be missing: they are counted.
            replace: See `ingest_coco`.
            follow_links: See `ingest_coco`.

        Returns:
            What `clipstore ingest sugarcrepe --json` prints, with the keys of `ingest_coco` and "subsets" (the pairs
            and images of each subset, and those whose image file is missing).

        Raises:
            DatasetError: See `ingest_coco`.
            BadNameError: See `ingest_coco`.

        Example:
            >>> store.ingest_sugarcrepe("/data/sugar-crepe", images="/data/coco/val2017")["subsets"]
        """
        from clipstore.pipeline.ingest.run import IngestOptions, ingest_sugarcrepe

        options = IngestOptions(replace=replace, images=_path(images), follow_links=follow_links)
        return Result(ingest_sugarcrepe(self._store, Path(root), name=name, options=options).row())

    @checked
    def ingest_hard_negatives(
        self,
        file: File,
        *,
        name: str | None = None,
        images: File | None = None,
        replace: bool = False,
        follow_links: bool = False,
    ) -> Result:
        """Ingest a CSV file of captions and hard negatives, for `evaluate(…, protocol="hard-negatives")`.

        Args:
            file: The file. Its columns are image_path, positive, negative and, optionally, subset.
            name: The name of the dataset. Default: the file's name without its suffix.
            images: The folder that relative image paths start at. Default: the folder of the file.
            replace: See `ingest_coco`.
            follow_links: See `ingest_coco`.

        Returns:
            What `clipstore ingest hard-negatives --json` prints, with the keys of `ingest_sugarcrepe`.

        Raises:
            DatasetError: See `ingest_coco`.
            BadNameError: See `ingest_coco`.

        Example:
            >>> store.ingest_hard_negatives("negatives.csv", name="holidays-hard")
        """
        from clipstore.pipeline.ingest.run import IngestOptions, ingest_hard_negatives

        options = IngestOptions(replace=replace, images=_path(images), follow_links=follow_links)
        return Result(ingest_hard_negatives(self._store, Path(file), name=name, options=options).row())

    @checked
    def ingest_folder(
        self, root: File, *, name: str | None = None, replace: bool = False, follow_links: bool = False
    ) -> Result:
        """Ingest a folder that has a folder of images for each class. The images have no captions.

        Args:
            root: The folder. The folders in it are named as the classes, and have their images at any depth.
            name: The name of the dataset. Default: the name of the folder.
            replace: See `ingest_coco`.
            follow_links: See `ingest_coco`.

        Returns:
            What `clipstore ingest folder --json` prints, with the keys of `ingest_coco`.

        Raises:
            DatasetError: See `ingest_coco`.
            BadNameError: See `ingest_coco`.

        Example:
            >>> store.ingest_folder("flowers/val", name="flowers")
        """
        from clipstore.pipeline.ingest.run import IngestOptions, ingest_folder

        options = IngestOptions(replace=replace, follow_links=follow_links)
        return Result(ingest_folder(self._store, Path(root), name=name, options=options).row())


def _path(file: File | None) -> Path | None:
    return None if file is None else Path(file)
