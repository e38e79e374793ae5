"""Embed texts that are no captions, such as those of classes: vectors in ordinary shards of a model's text tower."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from clipstore.pipeline.embed.execute import encode_pending
from clipstore.pipeline.embed.loading import load_encoder
from clipstore.pipeline.embed.options import EmbedOptions
from clipstore.pipeline.embed.plan import PendingItems, TowerPlan
from clipstore.pipeline.embed.state import EmbedModel, EmbedRun
from clipstore.pipeline.embed.summary import EmbedSummary
from clipstore.pipeline.embed.verify import verified_towers
from clipstore.records import Model, Tower
from clipstore.spool import SpooledTable
from clipstore.store.layout import Store
from clipstore.store.locks import shard_write_lock
from clipstore.store.orphans import adopt_orphans
from clipstore.store.registry import missing_shards
from clipstore.store.towers import model_towers
from clipstore.waiting import wait_without_limit


def embed_texts(store: Store, model: Model, texts: Mapping[str, str], options: EmbedOptions) -> EmbedSummary:
    """Embed the texts (by content key) that have no vector of a model's text tower; the summary of the tower.

    A text is the exact input of the tokenizer. `options` gives memory, device and progress.

    Raises:
        ModelError: the model cannot be loaded.
        ShardError: a shard cannot be written, or another process is removing shards.
    """
    device = options.devices[0] if options.devices else None
    towers, files_key = model_towers(store, model, options.precision, device)
    towers = verified_towers(store, model, towers, device)
    described = EmbedModel.of(model, towers, files_key, options)
    run = EmbedRun(store=store, options=options, splits=None, models=[described])
    with shard_write_lock(store), wait_without_limit():
        adopt_orphans(store, described.selected)
        plan = _plan(store, towers[1], texts)
        described.count([plan])
        if plan.pending:
            load_encoder(run, described, [plan])
            encode_pending(run, [(described, plan.pending[0])])
    return described.summaries["text"]


def _plan(store: Store, tower: Tower, texts: Mapping[str, str]) -> TowerPlan:
    """What a text tower lacks of some texts. Known failures are not tried again."""
    named = pa.table({"content": pa.array(texts, pa.string()), "source": pa.array(texts.values(), pa.string())})
    with store.catalog.read() as session:
        missing = missing_shards(session, store, tower.fingerprint)
        session.stage(named_texts=named)
        parameters = {"fingerprint": tower.fingerprint, "missing_shards": missing}
        table = session.table("embed/pending_named_texts", **parameters)
        stored = session.rows("embed/count_named_texts", **parameters)[0]["stored"]
    pending = PendingItems(tower=tower, source="texts", rows=SpooledTable.of(table))
    return TowerPlan(
        tower=tower,
        pending=(pending,) if table.num_rows else (),
        stored=stored,
        failed=len(texts) - stored - table.num_rows,
        lost_shards=len(missing),
    )
