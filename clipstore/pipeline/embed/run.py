"""`clipstore embed`: plan by SQL what is missing, encode it into shards, register complete shards.

plan.py reads the catalog and writes nothing; loading.py loads models; execute.py encodes and registers. The images
that models have no features for are first, together for all models; then, model by model, stored features and texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace

from clipstore.errors import ModelError
from clipstore.inference.ray_workers import RayPlaces
from clipstore.pipeline.embed.cluster import check_images_seen, cluster_of
from clipstore.pipeline.embed.estimate import estimate_pending
from clipstore.pipeline.embed.execute import encode_pending
from clipstore.pipeline.embed.image_files import check_image_files
from clipstore.pipeline.embed.loading import load_encoder, record
from clipstore.pipeline.embed.options import EmbedOptions
from clipstore.pipeline.embed.plan import PendingItems, TowerPlan, plan_towers
from clipstore.pipeline.embed.state import EmbedModel, EmbedRun, Process, Work
from clipstore.pipeline.embed.summary import EmbedSummary
from clipstore.pipeline.embed.verify import verified_towers
from clipstore.records import IMPORTED, Model
from clipstore.store.layout import Store, split_id
from clipstore.store.locks import shard_write_lock
from clipstore.store.models import find_model
from clipstore.store.orphans import adopt_orphans
from clipstore.store.towers import model_towers
from clipstore.waiting import wait_without_limit

__all__ = ["EmbedOptions", "embed"]


def embed(store: Store, names: Iterable[str], options: EmbedOptions) -> list[EmbedSummary]:
    """Embed the items that models have no vectors for; a summary for each tower of each model.

    An image is decoded once for all models that need its pixels.

    Raises:
        NotFoundError: a model or split does not exist, or there is no store.
        ModelError: a model cannot be loaded, or its vectors were imported.
        ShardError: a shard cannot be written, or another process is removing shards.
        ClusterError: the Ray cluster does not answer, or a node has other versions, sees other files or fails.
    """
    models, splits = find_models(store, names, options)
    return run_embed(
        store, models, splits, options, estimate_pending if options.dry_run else encode_pending
    ).summaries()


def run_embed(
    store: Store, models: Sequence[Model], splits: list[int] | None, options: EmbedOptions, process: Process
) -> EmbedRun:
    """Find the items that models have no vectors for, and give them, source by source, to `process`; the run.

    Raises:
        ModelError: a model cannot be loaded.
        ShardError: a shard cannot be written, or another process is removing shards.
    """
    store.catalog.check_writable()
    with cluster_of(store, options) as places:
        if options.only != "captions":
            check_image_files(store, splits, options.on_progress, read=options.read)
        run = replace(
            describe_run(store, models, splits, options, places), process=process, registers=process is encode_pending
        )
        with nullcontext() if options.dry_run else shard_write_lock(store), wait_without_limit():
            _embed(run)
    return run


def _embed(run: EmbedRun) -> None:
    """Embed what the models of a run lack, or in a dry run estimate it."""
    if not run.options.dry_run:
        adopt_orphans(run.store, [tower for model in run.models for tower in model.selected])
    plans = plan_run(run, run.models)
    if run.places:
        check_images_seen(run.places, plans)
    registered = _embed_images(run, plans)
    for model, planned in zip(run.models, plans, strict=True):
        # Once shards were registered, they may hold features or vectors of this model's items.
        pending = plan_run(run, [model])[0] if registered else planned
        registered = _embed_rest(run, model, pending) or registered


def find_models(store: Store, names: Iterable[str], options: EmbedOptions) -> tuple[list[Model], list[int] | None]:
    """The models of a run, and the ids of its splits (None: the whole catalog).

    Raises:
        NotFoundError: a model or split does not exist, or there is no store.
        ModelError: the vectors of a model were imported.
    """
    with store.catalog.read() as session:
        models = list({model.name: model for model in (find_model(store, name) for name in names)}.values())
        splits = [split_id(session, name) for name in options.splits] or None
    for model in models:
        if model.family == IMPORTED:
            message = f"the vectors of {model.name} were imported: there is nothing to embed; 'clipstore import' again"
            raise ModelError(message)
    return models, splits


def describe_run(
    store: Store,
    models: Iterable[Model],
    splits: list[int] | None,
    options: EmbedOptions,
    places: RayPlaces | None = None,
) -> EmbedRun:
    """A run with the towers of its models, by their files; `places` are those of a cluster.

    Raises:
        ModelError: files of a model are missing or damaged.
    """
    described = [_describe(store, model, options, on_gpus=places is not None and places.on_gpus) for model in models]
    return EmbedRun(store=store, options=options, splits=splits, models=described, places=places)


def _describe(store: Store, model: Model, options: EmbedOptions, *, on_gpus: bool) -> EmbedModel:
    device = options.devices[0] if options.devices else None
    towers, files_key = model_towers(store, model, options.precision, "cuda" if on_gpus else device)
    if not options.dry_run:
        towers = verified_towers(store, model, towers, device)
    return EmbedModel.of(model, towers, files_key, options)


def plan_run(run: EmbedRun, models: Sequence[EmbedModel]) -> list[list[TowerPlan]]:
    """What some of the run's models lack, counted in their summaries."""
    towers = [(model.model, model.selected) for model in models]
    plans = plan_towers(run.store, towers, splits=run.splits, retry=run.options.retry_failed)
    for model, model_plans in zip(models, plans, strict=True):
        model.count(model_plans)
    return plans


def _embed_images(run: EmbedRun, plans: Sequence[Sequence[TowerPlan]]) -> bool:
    """Embed the images without stored features, together for several models; whether shards were registered.

    Models with the same image backbone share features, so only the first of them encodes the images. Models whose
    weights together exceed half of the memory take turns.
    """
    models_left = _first_of_backbones(run.models, plans)
    registers = bool(models_left) and run.registers
    while models_left:
        group: list[tuple[EmbedModel, PendingItems]] = []
        while models_left and (not group or run.weights <= run.memory / 2):
            model, model_plans, images = models_left.pop(0)
            load_encoder(run, model, model_plans)
            model.encoded_images = True
            group.append((model, images))
        _process(run, group)
        if models_left:  # they need the memory. The texts of this group load its models again
            for model, _ in group:
                model.encoder = None
    return registers


def _first_of_backbones(
    models: Sequence[EmbedModel], plans: Sequence[Sequence[TowerPlan]]
) -> list[tuple[EmbedModel, Sequence[TowerPlan], PendingItems]]:
    """Of each image backbone the first model that has images without features, with its plans and those images."""
    first: dict[str, tuple[EmbedModel, Sequence[TowerPlan], PendingItems]] = {}
    for model, model_plans in zip(models, plans, strict=True):
        for images in filter(None, (plan.items("image_files") for plan in model_plans)):
            first.setdefault(images.tower.backbone or images.tower.fingerprint, (model, model_plans, images))
    return list(first.values())


def _embed_rest(run: EmbedRun, model: EmbedModel, plans: Sequence[TowerPlan]) -> bool:
    """Embed what a model lacks beside those images: stored features and texts; whether shards were registered."""
    sources = {"features", "texts"}
    # Another model of the backbone encoded the images, except where its features were lost and its vectors were not.
    if not model.encoded_images and run.registers and not run.options.retry_failed:
        sources.add("image_files")
    elif not model.encoded_images:
        images = [items for plan in plans if (items := plan.items("image_files"))]
        model.deferred = sum(items.count for items in images)
    pending = [items for plan in plans for items in plan.pending if items.source in sources]
    if pending and not model.encoder:
        load_encoder(run, model, plans)
    elif not model.encoder:
        record(run, model)
    for items in pending:
        _process(run, [(model, items)])
    model.encoder = None
    return bool(pending) and run.registers


def _process(run: EmbedRun, work: Work) -> None:
    """Give pending items of one source to the run's process."""
    for model, items in work:
        if items.source == "texts":
            special = map(model.required_encoder.contains_special_token, items.sources())
            model.summaries["text"].special_tokens = sum(special)
    run.process(run, work)
