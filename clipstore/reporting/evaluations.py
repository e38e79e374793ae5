"""The tables of evaluations by any protocol, each followed by the provenance of the evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipstore.protocols import PROTOCOLS
from clipstore.records import Row
from clipstore.reporting import hard_negatives, metrics
from clipstore.reporting.tables import console, print_table

Evaluation = Mapping[str, Any]  # as `clipstore eval --json` prints it


def print_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Print the rows of evaluations by one protocol, then the provenance of each."""
    print_table([row for evaluation in evaluations for row in evaluation_rows(evaluation)])
    for evaluation in evaluations:
        for line in evaluation_lines(evaluation):
            console().print(line, style="dim", soft_wrap=True)


def evaluation_rows(evaluation: Evaluation) -> list[Row]:
    """The rows of an evaluation in a table."""
    of_pairs = PROTOCOLS[evaluation["protocol"]].hard_negatives
    return hard_negatives.accuracy_rows(evaluation) if of_pairs else metrics.metric_rows(evaluation)


def evaluation_lines(evaluation: Evaluation) -> list[str]:
    """The provenance of an evaluation in lines that follow a table."""
    of_pairs = PROTOCOLS[evaluation["protocol"]].hard_negatives
    return hard_negatives.provenance_lines(evaluation) if of_pairs else metrics.provenance_lines(evaluation)
