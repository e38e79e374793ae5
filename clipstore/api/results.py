"""What the Python API returns: the JSON of a command as a dict that a notebook shows as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clipstore.reporting import comparison, embedding, evaluations, metrics, retrieval, training, zeroshot
from clipstore.reporting.html_tables import html_notes, html_table
from clipstore.reporting.tables import plain


class Result(dict[str, Any]):
    """What a command prints with --json, as a dict of plain values: `json.dumps(result)` gives the same.

    In a notebook it is shown as tables.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(plain(content))

    def html(self) -> Iterator[str]:
        """The tables and notes that a notebook shows; here each value by its key."""
        values = [{"name": key, "value": value} for key, value in self.items() if not isinstance(value, dict | list)]
        yield html_table(values)
        for key, value in self.items():
            title = key.replace("_", " ")
            if isinstance(value, dict):
                yield html_table([{"name": name, "value": part} for name, part in value.items()], title)
            elif value and isinstance(value, list) and isinstance(value[0], dict):
                yield html_table(value, title)
            elif isinstance(value, list):
                yield html_notes(f"{title}: {part}" for part in value)

    def _repr_html_(self) -> str:
        return "".join(self.html())


class EvaluationResult(Result):
    """Evaluations, as `clipstore eval --json` prints them. A notebook shows the metrics and their provenance."""

    def html(self) -> Iterator[str]:
        """The table of metrics, then the provenance of each evaluation."""
        yield html_table([row for evaluation in self["evaluations"] for row in evaluations.evaluation_rows(evaluation)])
        yield html_notes(
            line for evaluation in self["evaluations"] for line in evaluations.evaluation_lines(evaluation)
        )
        yield _skipped(self)


class ComparisonResult(Result):
    """A comparison with a baseline, as `clipstore compare --json` prints it."""

    def html(self) -> Iterator[str]:
        """A table of differences for each model, the queries that changed, and the provenance."""
        if self.get("task") == "zeroshot":
            yield from self._class_html()
            return
        confidence = self["method"]["confidence"]
        for model in self["models"]:
            title = f"{model['model']} against {self['baseline']}"
            yield html_table(comparison.difference_rows(model, confidence), title)
        yield html_table([row for model in self["models"] for row in comparison.change_rows(model)], "Queries")
        yield html_notes(comparison.comparison_notes(self))

    def _class_html(self) -> Iterator[str]:
        """The same of zero-shot classifications."""
        for model in self["models"]:
            title = f"{model['model']} against {self['baseline']}"
            yield html_table(zeroshot.difference_rows(model, self["method"]["confidence"]), title)
        yield html_table([{"model": model["model"], **model["images"]} for model in self["models"]], "Images")
        yield html_notes(zeroshot.class_comparison_notes(self))


class ClassificationResult(Result):
    """Zero-shot classifications, as `clipstore zeroshot --json` prints them."""

    def html(self) -> Iterator[str]:
        """The table of metrics, then the provenance of each classification."""
        rows = self["classifications"]
        yield html_table([row for classification in rows for row in zeroshot.metric_rows(classification)])
        yield html_notes(line for classification in rows for line in zeroshot.provenance_lines(classification))
        yield _skipped(self)


class HubnessResult(Result):
    """Hubness with and without a query bank, as `clipstore hubness --json` prints it."""

    def html(self) -> Iterator[str]:
        """One row for each model, direction and correction, then the gallery and the bank."""
        yield html_table(metrics.hubness_rows(self["hubness"]))
        yield html_notes(metrics.hubness_notes(self["hubness"]))
        yield _skipped(self)


class RetrievalResult(Result):
    """Hits of queries, as `clipstore retrieve --json` prints them."""

    def html(self) -> Iterator[str]:
        """One row for each hit, the queries that failed, and what was searched."""
        yield html_table(retrieval.hit_rows(self))
        yield html_table(self["failures"], "failures")
        yield html_notes(retrieval.retrieval_notes(self))


class EmbedResult(Result):
    """Summaries of a run, one for each tower, as `clipstore embed --json` prints them."""

    def html(self) -> Iterator[str]:
        """The summaries as `clipstore embed` prints them."""
        rows = self["embedded"]
        yield html_table(embedding.summary_rows(rows, dry_run=any(row["estimate"] is not None for row in rows)))
        yield html_notes(embedding.summary_notes(rows))


class TrainResult(Result):
    """A training, epoch by epoch, as `clipstore train --json` prints it."""

    def html(self) -> Iterator[str]:
        """One row for each epoch, then the adapter and why training ended."""
        yield html_table(training.epoch_rows(self))
        yield html_notes([f"stopped by {self['stopped_by']}; adapter: {self['adapter']}"])


class RunResult(Result):
    """The training and the evaluations of a job, as `clipstore run --json` prints them."""

    def html(self) -> Iterator[str]:
        """The training, if there was one, and the evaluations."""
        yield html_notes([f"job: {self['job']}"])
        if self["trained"]:
            yield from TrainResult(self["trained"]).html()
        yield from EvaluationResult({"evaluations": self["evaluations"]}).html()


def _skipped(result: Result) -> str:
    """The models that were skipped, with the reason."""
    return html_notes(f"skipped {row['model']}: {row['reason']}" for row in result.get("skipped", ()))
