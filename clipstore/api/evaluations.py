"""Methods of `EmbeddingStore` on evaluations."""

from __future__ import annotations

from clipstore import choices
from clipstore.api.arguments import Names, Positive, ShowProgress, Size, checked, names
from clipstore.api.base import StoreMethods
from clipstore.api.progress import progress_of
from clipstore.api.results import ComparisonResult, EvaluationResult, Result
from clipstore.hints import RERANK_TOP


class EvaluationMethods(StoreMethods):
    """Evaluate models and compare them."""

    @checked
    def evaluate(  # noqa: PLR0913  (the options of the command)
        self,
        model: Names | None,
        split: str,
        *,
        protocol: choices.ProtocolChoice = "standard",
        captions: choices.CaptionsChoice | None = None,
        partial: bool = False,
        unseen: bool = False,
        rerank: str | None = None,
        top: Positive = RERANK_TOP,
        rerank_weight: float = 1.0,
        memory: Size = "8GB",
        device: str = "cpu",
        ray: str | None = None,
        ray_cpus: Positive | None = None,
        progress: ShowProgress = None,
    ) -> EvaluationResult:
        """Rank a split exactly in both directions, and store ranks, hits and metrics in the catalog.

        The same evaluation again replaces the former.

        Args:
            model: One or several models; None: all whose vectors are complete.
            split: The split.
            protocol: "standard", "paired-rows", "coco-1k", "eccv", "cxc" or "hard-negatives".
            captions: "first5" or "all" captions of each image; None: as the protocol defines it.
            partial: Evaluate the items embedded so far. The result is marked partial.
            unseen: Query only with images that none of the models was trained on; the gallery is unchanged.
            rerank: Order the first candidates of each query again by the scores that `rerank` stored of this model.
            top: The number of these candidates.
            rerank_weight: The weight of the cosine similarity, which is added to the matching logit.
            memory: Memory budget for ranking, such as "8GB" or a number of bytes; with `ray`, also of each worker.
            device: Device of the matrix products, such as "cuda".
            ray: Rank on the workers of the Ray cluster at this address, "auto" or host:port. The result is the same.
            ray_cpus: CPUs of each worker; None: all of a node.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore eval --json` prints. "evaluations" has a row for each model with "model", "split",
            "protocol", "metrics" (fractions such as "image_retrieval_recall@1", ranks from 1, "rsum" in percent) and
            "measured_on" (the provenance), and "seen" and "unseen" where the model was trained on some of the images.
            With the protocol "hard-negatives", "metrics" has "accuracy" (over all pairs), "macro_accuracy" (the mean of
            the subsets) and "accuracy/SUBSET", and "subsets" has the pairs, ties and left out pairs of each subset.
            "skipped" has the models that were not evaluated, each with its "reason"; "warnings" are lines.

        Raises:
            NotFoundError: There is no such model or split.
            MissingExtraError: Ray is not installed.
            ClusterError: The cluster does not answer, a node differs or does not see the store, or workers were lost.
            VectorError: Vectors are missing (and not `partial`), the split does not fit the protocol, or pairs have no
                score to rerank by.

        Example:
            >>> store.evaluate("full", "coco/val2017")["evaluations"][0]["metrics"]["rsum"]
        """
        from clipstore.pipeline.evaluate.options import EvalOptions
        from clipstore.pipeline.evaluate.run import evaluate

        with progress_of(progress) as display:
            options = EvalOptions(
                protocol=protocol,
                captions=captions,
                partial=partial,
                unseen=unseen,
                rerank=rerank,
                rerank_top=top,
                rerank_weight=rerank_weight,
                memory=choices.size_in_bytes(memory),
                device=device,
                ray=ray,
                ray_cpus=ray_cpus,
                on_progress=display,
            )
            return EvaluationResult(vars(evaluate(self._store, names(model), split, options)))

    @checked
    def rerank(  # noqa: PLR0913  (the options of the command)
        self,
        model: str,
        split: str,
        *,
        first: str | None = None,
        top: Positive = RERANK_TOP,
        protocol: choices.ProtocolChoice = "standard",
        captions: choices.CaptionsChoice | None = None,
        precision: choices.MatchingPrecisionChoice = "fp32",
        memory: Size = "8GB",
        device: str | None = None,
        progress: ShowProgress = None,
    ) -> Result:
        """Score the first candidates of each query by the matching head of a model, for `evaluate(rerank=...)`.

        Stored scores of equal pairs are reused. Safe to interrupt: the same call again resumes.

        Args:
            model: A model with a matching head, such as a BLIP.
            split: The split whose pairs are scored.
            first: The model whose first candidates are scored; None: the model itself, by its vectors.
            top: The number of candidates of each query, in both directions.
            protocol: "standard", "paired-rows", "coco-1k", "eccv" or "cxc".
            captions: "first5" or "all" captions of each image; None: as the protocol defines it.
            precision: "fp32" or "bf16".
            memory: Device memory budget, such as "8GB" or a number of bytes.
            device: Device such as "cuda:1"; None: CUDA if available, else the CPU.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore rerank --json` prints: "pairs" (all that are needed), "stored" (that had a score), "scored",
            "seconds", "precision", "fingerprint" and the arguments.

        Raises:
            NotFoundError: There is no such model or split.
            ModelError: The model has no matching head, or cannot be loaded.
            VectorError: The first stage has no vectors, or an image file is missing.

        Example:
            >>> store.rerank("blip", "coco/val2017", first="pretrained")["scored"]
        """
        from clipstore.pipeline.rerank.options import RerankOptions
        from clipstore.pipeline.rerank.run import rerank

        with progress_of(progress) as display:
            options = RerankOptions(
                first=first,
                top=top,
                protocol=protocol,
                captions=captions,
                precision=precision,
                memory=choices.size_in_bytes(memory),
                device=device,
                on_progress=display,
            )
            return Result(rerank(self._store, model, split, options))

    @checked
    def compare(
        self,
        models: Names,
        split: str,
        *,
        protocol: choices.ProtocolChoice = "standard",
        captions: choices.CaptionsChoice | None = None,
        unseen: bool = False,
        task: choices.TaskChoice = "retrieval",
    ) -> ComparisonResult:
        """Compare models with the first (the baseline), query by query, from their stored evaluations.

        Args:
            models: The baseline and at least one other model.
            split: The split that all were evaluated on.
            protocol: The protocol of the evaluations.
            captions: Their set of captions; None: that of each model's last evaluation.
            unseen: Use the evaluations restricted to unseen images.
            task: "retrieval", or "zeroshot" for the last result of `zeroshot` of each model; then the three options
                above do not apply.

        Returns:
            What `clipstore compare --json` prints: "baseline", "split", "protocol", "measured_on", "method", "warnings"
            and "models". Each of "models" has "model", "differences" (a row for each direction and metric with
            "baseline", "value", "difference", "low" and "high" of the 95 % interval, "p", "p_holm" and "verdict") and
            "queries" (numbers of queries fixed, broken and unchanged). With the task "zeroshot" the rows have no
            direction, "task" replaces "protocol", and each of "models" has "images" (fixed, broken, unchanged) and
            "classes" in place of "queries".

        Raises:
            NotFoundError: There is no such model or split.
            ComparisonError: Fewer than two models, a model without such an evaluation, or evaluations of different
                galleries or queries.

        Example:
            >>> store.compare(["pretrained", "full"], "coco/val2017")["models"][0]["differences"]
        """
        from clipstore.pipeline.compare import CompareOptions, compare

        options = CompareOptions(protocol=protocol, captions=captions, unseen=unseen, task=task)
        return ComparisonResult(compare(self._store, names(models), split, options))

    @checked
    def remove_evaluations(
        self,
        *,
        model: str | None = None,
        split: str | None = None,
        protocol: choices.ProtocolChoice | None = None,
        dry_run: bool = False,
    ) -> Result:
        """Remove the evaluations that match all given options, with their ranks and hits. There is no confirmation.

        Args:
            model: The model whose evaluations to remove.
            split: The split whose evaluations to remove.
            protocol: The protocol of the evaluations to remove.
            dry_run: Only report what would be removed.

        Returns:
            What `clipstore eval remove --json` prints: "what", "removed" and "remains", as in `remove_split`.

        Raises:
            RemovalError: No option is given.
            NotFoundError: There is no such split or evaluation.

        Example:
            >>> store.remove_evaluations(model="tuned", split="coco/val2017")
        """
        from clipstore.pipeline.removal import remove_evaluations

        return Result(
            remove_evaluations(self._store, model=model, split=split, protocol=protocol, dry_run=dry_run).row()
        )
