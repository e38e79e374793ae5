"""Load a model for embedding: compare a sample with fp32, check the probes, and record the model in the catalog."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from clipstore.encoders.checks import base_mismatch
from clipstore.inference.batches import BatchSplitter
from clipstore.inference.builder import EncodedRows
from clipstore.inference.encode import encode_rows
from clipstore.inference.settings import Timings
from clipstore.pipeline.embed.plan import TowerPlan, plan_groups
from clipstore.pipeline.embed.state import EmbedModel, EmbedRun
from clipstore.records import Row, ShardPlan, Tower
from clipstore.shards import normalize
from clipstore.store.model_records import record_model, record_towers
from clipstore.store.probes import add_probes, check_probes, tower_fingerprints
from clipstore.store.recovery import save_records
from clipstore.store.registry import delete_missing_shards

_PRECISION_ITEMS = {
    "image": 8,
    "text": 32,
}  # items of each source that are encoded in fp32 too, to measure the precision's cost
_SAMPLE_TOKENS = 200  # per batch of those: few, so that every core has a batch

_log = logging.getLogger(__name__)


class _PrecisionCheck(NamedTuple):
    tower: Tower
    items: int
    least_cosine: float


def load_encoder(run: EmbedRun, model: EmbedModel, plans: Sequence[TowerPlan]) -> None:
    """Load a model, compare a sample of its pending items with fp32, check its probes, and record it.

    Raises:
        ModelError: the model cannot be loaded, or computes other vectors than those stored under its fingerprints.
    """
    # Imported here and not above: a run with nothing to do needs no torch.
    from clipstore.encoders.encoder import Encoder
    from clipstore.encoders.loading import load_model

    device, precision = run.devices()[0], model.towers[0].precision
    loaded = load_model(model.model)
    _warn(model)
    sample = _sample_plans(plans) if precision != "fp32" else []
    exact: list[EncodedRows] = []
    if sample:
        fp32_weights = sum(weight.numel() for weight in loaded.model.parameters()) * 4
        fits = run.weights + fp32_weights <= run.memory  # else on the CPU: the same vectors, more slowly
        model.encoder = Encoder(loaded, device=device if fits else "cpu")
        exact = _encode_sample(run, model, sample)
    model.encoder = Encoder(loaded, precision=precision, device=device, compiled=run.options.compiled)
    probes = check_probes(run.store, model.model.name, model.towers, model.encoder)
    checks = _compare(sample, exact, _encode_sample(run, model, sample))
    for check in checks:
        summary = model.summaries[check.tower.tower]
        earlier = [] if summary.least_cosine is None else [summary.least_cosine]
        summary.least_cosine = min([check.least_cosine, *earlier])
    record(run, model, probes, checks)


def record(
    run: EmbedRun, model: EmbedModel, probes: Iterable[Row] = (), checks: Iterable[_PrecisionCheck] = ()
) -> None:
    """Record a model, its towers, new probes and precision checks, and delete shards whose files are missing.

    A dry run records nothing.
    """
    if run.options.dry_run:
        return
    with run.store.catalog.write() as session:
        model_id = record_model(session, model.model, origin="job")
        record_towers(session, model_id, model.towers, model.files_key)
        for tower in model.towers:
            for fingerprint in tower_fingerprints(tower).values():
                delete_missing_shards(session, run.store, fingerprint)
        add_probes(session, probes)
        for check in checks:
            row: dict[str, Any] = {"items": check.items, "least_cosine": check.least_cosine}
            session.run("embed/add_precision_check", fingerprint=check.tower.fingerprint, **row)
        save_records(session, run.store, "models", "fingerprints")


def _warn(model: EmbedModel) -> None:
    """Log what is doubtful about a model's files, once per run."""
    warning = None if model.warned else base_mismatch(model.model)
    model.warned = True
    if warning:
        _log.warning("clipstore: warning: %s: %s", model.model.name, warning)


def _sample_plans(plans: Sequence[TowerPlan]) -> list[ShardPlan]:
    """A sample of the pending items of each tower and source."""
    samples = [items.sample(_PRECISION_ITEMS[plan.tower.tower]) for plan in plans for items in plan.pending]
    return [group.plans[0] for sample in samples for group in plan_groups([sample])]


def _encode_sample(run: EmbedRun, model: EmbedModel, sample: Sequence[ShardPlan]) -> list[EncodedRows]:
    """Encode a sample by the loaded encoder, in small batches and with timings of its own."""
    rows = []
    for plan in sample:
        settings = run.encode_settings(model, plan.tower, Timings())
        tokens = min(settings.batch_tokens, _SAMPLE_TOKENS)
        rows.append(encode_rows(plan, replace(settings, batch_tokens=tokens, splitter=BatchSplitter())))
    return rows


def _compare(
    sample: Sequence[ShardPlan], exact: Sequence[EncodedRows], rounded: Sequence[EncodedRows]
) -> list[_PrecisionCheck]:
    """The minimum cosine similarity of each plan's vectors at two precisions; plans without vectors are left out."""
    checks = []
    for plan, exact_rows, rounded_rows in zip(sample, exact, rounded, strict=True):
        cosines = _cosines(exact_rows, rounded_rows)
        if cosines:
            checks.append(_PrecisionCheck(plan.tower, len(cosines), min(cosines)))
    return checks


def _cosines(exact: EncodedRows, rounded: EncodedRows) -> list[float]:
    """The cosine similarity of the two vectors of each item that has both."""
    vectors = dict(zip(rounded.contents, normalize(rounded.vectors, "float64"), strict=True))
    pairs = zip(exact.contents, normalize(exact.vectors, "float64"), strict=True)
    return [float(vector @ vectors[content]) for content, vector in pairs if content in vectors]
