"""Methods of `EmbeddingStore` for a closer look: retrieval, hubness and reports."""

from __future__ import annotations

from pathlib import Path

from clipstore import choices
from clipstore.api.arguments import File, Names, Positive, Queries, ShowProgress, Size, checked, names
from clipstore.api.base import StoreMethods
from clipstore.api.progress import progress_of
from clipstore.api.results import HubnessResult, Result, RetrievalResult


class AnalysisMethods(StoreMethods):
    """Retrieve for queries of any origin, measure hubness, and write reports."""

    @checked
    def hubness(
        self,
        model: Names | None,
        split: str,
        *,
        bank: str | None = None,
        beta: float = 20.0,
        memory: Size = "8GB",
        device: str = "cpu",
        progress: ShowProgress = None,
    ) -> HubnessResult:
        """Measure how unevenly items are retrieved; with a query bank, also after correction. Nothing is stored.

        Args:
            model: One or several models; None: all whose vectors are complete.
            split: The split to rank.
            bank: A split whose captions and images are the query bank (Bogolin et al., 2022), best that of training.
            beta: Inverse temperature of the query-bank softmax.
            memory: See `evaluate`.
            device: See `evaluate`.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore hubness --json` prints: "hubness", one for each model with "model", "split", "images",
            "captions", "gallery_digest", "bank", "warnings" and "rows" (metrics and hubness of each correction and
            direction); and "skipped", models with their "reason".

        Raises:
            NotFoundError: There is no such model or split.
            VectorError: Vectors are missing, or every image of the bank is in the split.

        Example:
            >>> store.hubness("full", "full/val", bank="full/train")["hubness"][0]["rows"]
        """
        from clipstore.pipeline.hubness import HubnessOptions, hubness

        with progress_of(progress) as display:
            size = choices.size_in_bytes(memory)
            options = HubnessOptions(bank=bank, beta=beta, memory=size, device=device, on_progress=display)
            rows, skipped = hubness(self._store, names(model), split, options)
        return HubnessResult({"hubness": rows, "skipped": skipped})

    @checked
    def retrieve(  # noqa: PLR0913  (the options of the command)
        self,
        image_or_text: Queries | None = None,
        *,
        text: Names | None = None,
        model: Names,
        split: str,
        top: Positive = 5,
        allow_network: bool = False,
        allow_private_addresses: bool = False,
        panel: File | None = None,
        partial: bool = False,
        memory: Size = "8GB",
        device: str | None = None,
        progress: ShowProgress = None,
    ) -> RetrievalResult:
        """Retrieve captions for images, and images for texts, by exact ranking of stored vectors.

        Args:
            image_or_text: One or several queries: image files, folders of them, web addresses (with
                `allow_network`), or texts. A Path is never a text.
            text: One or several texts that could be mistaken for paths.
            model: One or several models.
            split: The split to search.
            top: Number of hits per query.
            allow_network: Fetch images from http and https addresses.
            allow_private_addresses: Fetch them from private and loopback addresses, too.
            panel: Also draw queries and hits into this PNG file.
            partial: Search the items embedded so far.
            memory: Memory budget of the model on its device, and of the ranking.
            device: Device of the model and of the matrix products; None: CUDA if available, else the CPU.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore retrieve --json` prints: "split", "top", "models" (with their provenance), "queries",
            "failures" (queries that cannot be used, each with its "reason") and "warnings". Each of "queries" has
            "query", "kind" and "answers", one for each model, whose "hits" have "position" from 1, "source_id",
            "caption", "photo" (the path of the image file), "score" (cosine) and "right" (None: unknown).

        Raises:
            QueryError: No query can be used.
            NotFoundError: There is no such model or split.
            ModelError: A model cannot be loaded, or its vectors were imported.
            VectorError: Items have no vectors yet (and not `partial`).

        Example:
            >>> store.retrieve(["image.jpg", "a dog on a beach"], model="demo", split="scenes/val")
        """
        from clipstore.pipeline.retrieve.download import DownloadRules, is_any, is_public
        from clipstore.pipeline.retrieve.options import RetrieveOptions
        from clipstore.pipeline.retrieve.queries import parse_queries
        from clipstore.pipeline.retrieve.run import retrieve

        queries = parse_queries(names(image_or_text), names(text), allow_network=allow_network)
        with progress_of(progress) as display:
            options = RetrieveOptions(
                top=top,
                partial=partial,
                memory=choices.size_in_bytes(memory),
                device=device,
                downloads=DownloadRules(permits=is_any if allow_private_addresses else is_public),
                thumbnails=panel is not None,
                on_progress=display,
            )
            retrieval = retrieve(self._store, queries, names(model), split, options)
        if panel is not None:
            from clipstore.reporting.panel import write_panel
            from clipstore.reporting.retrieval import retrieval_notes

            write_panel(Path(panel), retrieval.result, retrieval.thumbnails, retrieval_notes(retrieval.result))
        return RetrievalResult(retrieval.result)

    @checked
    def report(  # noqa: PLR0913  (the options of the command)
        self,
        *,
        split: Names | None = None,
        model: Names | None = None,
        out: File | None = None,
        format: choices.ReportFormatChoice = "html",  # noqa: A002
        thumbnails: choices.ThumbnailsChoice | None = None,
        map: choices.MapChoice = "umap",  # noqa: A002
        protocol: choices.ProtocolChoice = "standard",
        captions: choices.CaptionsChoice | None = None,
        unseen: bool = False,
        progress: ShowProgress = None,
    ) -> Result:
        """Write evaluations into one HTML file, or metric tables for papers.

        Args:
            split: One or several splits; None: all that were evaluated.
            model: One or several models, the baseline first; None: all.
            out: The file. Default: reports/report.html in the store; "md" and "tex" are written only where it is given.
            format: "html", or "md" or "tex": the metric tables and comparisons only.
            thumbnails: "inline" or "folder"; None: inline up to 5,000 images.
            map: Projection of the vectors: "umap", "tsne" (both need the extra clipstore[map]) or "none".
            protocol: The protocol of the sections below the metric tables.
            captions: Caption set to report when both were evaluated.
            unseen: Use the evaluations restricted to unseen images.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore report --json` prints. HTML: "file", "bytes", "models" (by split), "photos" and
            "missing_photos". Tables: "file" (None without `out`) and "text".

        Raises:
            NotFoundError: There is no such split, model or evaluation.
            MissingExtraError: `map` needs a package that is not installed.
            FileAccessError: The file cannot be written.

        Example:
            >>> store.report(split="coco/val2017", model=["pretrained", "full"], map="none")["file"]
        """
        from clipstore.pipeline.report.options import ReportOptions
        from clipstore.pipeline.report.run import paper_tables, report

        path = None if out is None else Path(out)
        with progress_of(progress) as display:
            options = ReportOptions(
                splits=names(split),
                models=names(model),
                protocol=protocol,
                captions=captions,
                unseen=unseen,
                out=path,
                thumbnails=thumbnails,
                map=map,
                on_progress=display,
            )
            if format == "html":
                return Result(report(self._store, options))
            return Result({"file": path, "text": paper_tables(self._store, options, format)})
