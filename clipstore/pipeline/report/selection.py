"""What a report covers: its splits, each with the models that were evaluated on it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from clipstore.errors import NotFoundError
from clipstore.pipeline.query import run_query
from clipstore.pipeline.report.options import ReportOptions
from clipstore.protocols import PROTOCOLS
from clipstore.records import Row
from clipstore.store.evaluations import check_evaluated_name, read_evaluations
from clipstore.store.layout import Store
from clipstore.store.models import model_name


@dataclass(frozen=True, kw_only=True)
class QueryResult:
    """The result of a named query, and the commands that print it."""

    commands: list[str]
    table: pa.Table

    def section(self) -> Row:
        """The result as part of the page's content."""
        return {"commands": self.commands, "rows": self.table.to_pylist()}


@dataclass(frozen=True, kw_only=True)
class ReportSplit:
    """A split of a report, and the models that were evaluated on it.

    Attributes:
        store: the store.
        split: the name of the split.
        models: the models, the baseline first.
        named: whether the caller named the models; then each query names its model.
        options: which evaluations are selected.
        caption_set: that of the selected evaluations.
        evaluations: those by all protocols, as `clipstore eval --json` prints them.
    """

    store: Store
    split: str
    models: tuple[str, ...]
    named: bool
    options: ReportOptions
    caption_set: str
    evaluations: Sequence[Row]

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of named queries that select the evaluations."""
        return {"split": self.split, **self.options.query_parameters()}

    def query(self, name: str, **parameters: object) -> QueryResult:
        """A named query on the selected evaluations."""
        return self._query_models(name, {**self.parameters, **parameters})

    def query_all_protocols(self, name: str) -> QueryResult:
        """A named query on the evaluations by all protocols."""
        return self._query_models(name, {"split": self.split})

    def _query_models(self, name: str, parameters: Mapping[str, object]) -> QueryResult:
        models = [{"model": model} for model in self.models] if self.named else [{}]
        return concat_results(query_store(self.store, name, {**model, **parameters}) for model in models)


def query_store(store: Store, name: str, parameters: Mapping[str, object]) -> QueryResult:
    """Run a named query; with the command that prints the same."""
    pairs = [f"{key}={value}" for key, value in parameters.items()]
    command = shlex.join(["clipstore", "query", name, *(word for pair in pairs for word in ("-p", pair))])
    return QueryResult(commands=[command], table=run_query(store, name, pairs))


def concat_results(results: Iterable[QueryResult]) -> QueryResult:
    """The rows of several results of one query."""
    parts = list(results)
    return QueryResult(
        commands=[command for part in parts for command in part.commands],
        table=pa.concat_tables([part.table for part in parts], promote_options="permissive"),
    )


def select_splits(store: Store, options: ReportOptions) -> list[ReportSplit]:
    """The splits of a report: those named, else all on which the models were evaluated with these options.

    Raises:
        NotFoundError: a split or model does not exist, or was not evaluated with these options; the message names the
            command that evaluates it.
    """
    # A model may be named by the path of its job.
    models = tuple(dict.fromkeys(model_name(store, word) for word in options.models))
    options = replace(options, models=models)
    return [_select_split(store, split, options) for split in _split_names(store, options)]


def _split_names(store: Store, options: ReportOptions) -> list[str]:
    if options.splits:
        return list(dict.fromkeys(options.splits))
    models_by_split: dict[str, set[str]] = {}
    for row in query_store(store, "evaluations", options.query_parameters()).table.to_pylist():
        models_by_split.setdefault(row["split"], set()).add(row["model"])
    splits = [split for split, models in models_by_split.items() if models.issuperset(options.models)]
    if not splits:
        message = (
            f"no evaluation matches these options: run '{options.eval_command(store, 'SPLIT', options.models)}' first"
        )
        raise NotFoundError(message)
    return splits


def _select_split(store: Store, split: str, options: ReportOptions) -> ReportSplit:
    for name in options.models:
        check_evaluated_name(store, name)
    evaluations = read_evaluations(store, split, options.models)
    parameters = {"split": split, **options.query_parameters()}
    rows = query_store(store, "evaluations", parameters).table.to_pylist()
    evaluated = [row["model"] for row in rows]
    missing = [name for name in options.models if name not in evaluated]
    if missing or not evaluated:
        # With --unseen, models must be evaluated together: their queries are unseen by all of them.
        models = options.models if options.unseen else missing
        remedy = f"run '{options.eval_command(store, split, models)}' first"
        stored = dict.fromkeys(row["protocol"] for row in evaluations)
        if not evaluated and options.protocol not in stored:
            choice = f"choose a stored protocol with --protocol {' or '.join(stored)}"
            only_pairs = any(PROTOCOLS[name].hard_negatives for name in stored)  # such splits have no other protocol
            remedy = choice if only_pairs else f"{remedy}, or {choice}"
        message = f"no evaluation on {split} matches these options: {remedy}"
        raise NotFoundError(message)
    selected = [row for row in rows if not options.models or row["model"] in options.models]
    if len({row["caption_set"] for row in selected}) > 1:
        message = (
            f"the latest evaluations on {split} use different caption sets: choose one with --captions all or "
            "--captions first5"
        )
        raise NotFoundError(message)
    return ReportSplit(
        store=store,
        split=split,
        models=tuple(dict.fromkeys(options.models or evaluated)),
        named=bool(options.models),
        options=options,
        caption_set=selected[0]["caption_set"],
        evaluations=evaluations,
    )
