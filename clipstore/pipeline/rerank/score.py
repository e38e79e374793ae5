"""Score the pairs that have no score yet, and write and register the shard of each plan."""

from __future__ import annotations

import hashlib
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from clipstore.device import checked_device
from clipstore.pipeline.rerank.options import RerankOptions
from clipstore.pipeline.rerank.plan import Work, match_plans
from clipstore.progress import progress_counter
from clipstore.records import MatchingHead, MatchPlan, Model
from clipstore.shards import PairScores, ScoreInfo, software, write_scores
from clipstore.store.layout import Store
from clipstore.store.probes import add_probes, check_head_probe
from clipstore.store.recovery import save_records
from clipstore.store.scores import register_scores
from clipstore.store.storage import shard_storage

if TYPE_CHECKING:
    from clipstore.encoders.blip_matching import BlipMatcher

_SOFTWARE = ("clipstore", "torch", "transformers", "pillow")


def score_pairs(store: Store, model: Model, work: Work, options: RerankOptions) -> tuple[int, float]:
    """Score the pairs of `work` that have no score. Returns the number of shards, and the seconds after loading.

    Raises:
        ModelError: the model cannot be loaded, or would give other scores than those stored under its fingerprint.
        ImageError: an image file cannot be decoded.
        ShardError: a shard cannot be written.
    """
    if not len(work.missing):
        return 0, 0.0
    # Imported here and not above: a run with nothing to do needs no torch.
    from clipstore.inference.match import MatchSettings, match

    matcher = _load_matcher(model, options)
    _check_probe(store, model, work.head, matcher)
    start, shards, storage = time.perf_counter(), 0, shard_storage(store)
    settings = MatchSettings(
        matcher=matcher,
        batch_tokens=matcher.batch_tokens(options.memory - matcher.weight_bytes),
        on_progress=progress_counter(options.on_progress, f"{model.name}: pairs scored", len(work.missing)),
        read=options.read,
    )
    for plan, scores in match(match_plans(work, options.shard_pairs), settings):
        path = storage.path(_file(plan, scores))
        shard = write_scores(path, _info(model, plan.head), scores, publish=storage.publish)
        with store.catalog.write() as session:
            register_scores(session, [shard])
        shards += 1
    return shards, time.perf_counter() - start


def _load_matcher(model: Model, options: RerankOptions) -> BlipMatcher:
    from clipstore.encoders.blip_matching import BlipMatcher
    from clipstore.encoders.loading import load_model

    return BlipMatcher(load_model(model), precision=options.precision, device=checked_device(options.device))


def _check_probe(store: Store, model: Model, head: MatchingHead, matcher: BlipMatcher) -> None:
    """Compare the probe of a loaded head with the stored one, or store it."""
    probes = check_head_probe(store, model.name, head, matcher)
    if probes:
        with store.catalog.write() as session:
            add_probes(session, probes)
            save_records(session, store, "fingerprints")


def _info(model: Model, head: MatchingHead) -> ScoreInfo:
    return ScoreInfo(
        fingerprint=head.fingerprint,
        model=model.name,
        family=model.family,
        precision=head.precision,
        software=software(**{name: version(name) for name in _SOFTWARE}),
    )


def _file(plan: MatchPlan, scores: PairScores) -> str:
    """The file of a plan's shard, named by the pairs planned, so that the same plan always has the same file."""
    digest = hashlib.sha256("\n".join([*scores.image_contents, *scores.text_contents]).encode())
    digest.update(scores.image.tobytes() + scores.text.tobytes())
    return f"scores/{plan.head.fingerprint}/scores-{digest.hexdigest()[:16]}.h5"
