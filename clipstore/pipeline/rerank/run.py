"""`clipstore rerank`: rank the first stage, plan the pairs without a score, score them, and register each shard."""

from __future__ import annotations

import numpy as np

from clipstore.errors import VectorError
from clipstore.pipeline.embed.image_files import check_image_files
from clipstore.pipeline.evaluate.candidates import PairItems, candidate_codes, direction_ranks, most_hits
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.rank import rank_task
from clipstore.pipeline.evaluate.tasks import ranking_tasks
from clipstore.pipeline.rerank.options import RerankOptions
from clipstore.pipeline.rerank.plan import Ints, Work
from clipstore.pipeline.rerank.score import score_pairs
from clipstore.protocols import PROTOCOLS
from clipstore.records import MatchingHead, Model, Row
from clipstore.store.gallery import Gallery, find_gallery
from clipstore.store.hard_negatives import refuse_hard_negatives
from clipstore.store.layout import Store, split_id
from clipstore.store.locks import shard_write_lock
from clipstore.store.matching import matching_head
from clipstore.store.model_records import record_model
from clipstore.store.models import find_model
from clipstore.store.recovery import save_records
from clipstore.store.scores import adopt_scores, record_head, stored_scores
from clipstore.waiting import wait_without_limit


def rerank(store: Store, name: str, split: str, options: RerankOptions) -> Row:
    """Score the first candidates of each query of a split by the matching head of a model.

    Stored scores of equal pairs are reused for any first stage, protocol and split.

    Returns "model", "first", "split", "protocol", "captions" (the caption set), "chosen_captions" (the option), "top",
    "gallery_images" and "gallery_captions"; "pairs" (all that are needed, each once), "stored" (that had a score),
    "scored", "shards" (written), "adopted" (shards that an interrupted run had completed), "seconds" (of scoring),
    "precision" and "fingerprint".

    Raises:
        NotFoundError: there is no such model or split.
        ModelError: the reranker has no matching head, or cannot be loaded.
        VectorError: the first stage has no vectors, the protocol does not fit the split, or an image file is missing.
        ImageError: an image file cannot be decoded.
        ShardError: a shard is damaged or cannot be written.
    """
    if PROTOCOLS[options.protocol].hard_negatives:
        message = f"--protocol {options.protocol} has no candidates to score: use another protocol"
        raise VectorError(message)
    reranker, first = find_model(store, name), find_model(store, options.first or name)
    head, files_key = matching_head(store, reranker, options.precision)
    store.catalog.check_writable()
    evaluation = EvalOptions(
        protocol=options.protocol,
        captions=options.captions,
        memory=options.memory,
        device=options.device or "cpu",
        on_progress=options.on_progress,
    )
    gallery = _find_gallery(store, first, split, evaluation, options)
    with shard_write_lock(store), wait_without_limit():
        model_id = _record(store, reranker, head, files_key)
        adopted = adopt_scores(store, head.fingerprint)
        with store.catalog.read() as session:
            items = PairItems.of(session, gallery, model_id)
        work = _find_work(store, head, items, _needed(first.name, gallery, items, evaluation, options.top))
        shards, seconds = score_pairs(store, reranker, work, options)
    return {
        "model": reranker.name,
        "first": first.name,
        "split": split,
        "protocol": options.protocol,
        "captions": evaluation.caption_set,
        "chosen_captions": options.captions,
        "top": options.top,
        "gallery_images": len(items.image_rows),
        "gallery_captions": len(items.text_rows),
        "pairs": len(work.codes),
        "stored": len(work.codes) - len(work.missing),
        "scored": len(work.missing),
        "shards": shards,
        "adopted": len(adopted),
        "seconds": seconds,
        "precision": head.precision,
        "fingerprint": head.fingerprint,
    }


def _find_gallery(store: Store, first: Model, split: str, evaluation: EvalOptions, options: RerankOptions) -> Gallery:
    """The gallery of the first stage, once the catalog has the current state of its image files."""
    with store.catalog.read() as session:
        splits = [split_id(session, split)]
        refuse_hard_negatives(session, split)
    check_image_files(store, splits, options.on_progress, read=options.read)
    with store.catalog.read() as session:
        return find_gallery(store, session, first, split, partial=None, first_captions=evaluation.first_captions)


def _record(store: Store, model: Model, head: MatchingHead, files_key: str) -> int:
    """Record a model and its matching head. Returns the id of the model."""
    with store.catalog.write() as session:
        model_id = record_model(session, model, origin="job")
        record_head(session, model_id, head, files_key)
        save_records(session, store, "models")
    return model_id


def _needed(name: str, gallery: Gallery, items: PairItems, options: EvalOptions, top: int) -> Ints:
    """The codes (P,), ascending, of each query with its first candidates, of all tasks and directions."""
    protocol = PROTOCOLS[options.protocol]
    codes = [np.empty(0, dtype=np.int64)]
    for number, task in enumerate(ranking_tasks(protocol, gallery), 1):
        ranks = rank_task(name, gallery, task, options, number, top_k=most_hits(task, top))
        for direction, first in direction_ranks(protocol, ranks):
            codes.append(candidate_codes(items, task, first, direction, top)[1].ravel())
    unique = np.unique(np.concatenate(codes))
    return unique[unique >= 0]


def _find_work(store: Store, head: MatchingHead, items: PairItems, codes: Ints) -> Work:
    """The pairs that are needed, and those of them without a score.

    Raises:
        VectorError: the image file of one is missing; the head needs the pixels.
    """
    stored = stored_scores(store, head.fingerprint, *items.contents)
    work = Work(head=head, items=items, codes=codes, missing=codes[np.isnan(stored.find(codes))])
    rows = np.unique(work.missing // max(1, len(items.texts))).tolist()
    unreadable = [items.images[row] for row in rows if items.images[row]["problem"] or not items.images[row]["content"]]
    if unreadable:
        first = unreadable[0]
        message = (
            f"{len(unreadable):,} image files cannot be read, for example {first['path']} ({first['problem']}): the "
            "matching head needs the images; restore them and run the same command again"
        )
        raise VectorError(message)
    return work
