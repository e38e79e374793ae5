"""Fill an empty catalog from records, sources and shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pyarrow as pa

from clipstore.catalog import Session
from clipstore.errors import ShardError
from clipstore.pipeline.ingest.merge import clean_captions, merge_captions, merge_hard_pairs
from clipstore.pipeline.rebuild.sources import Source
from clipstore.progress import Progress
from clipstore.records import Row
from clipstore.shards import Shard, Storage, is_shard_name, read_shard
from clipstore.store.digests import split_digest
from clipstore.store.layout import Store
from clipstore.store.recovery_records import DatasetRecord, ImagesRecord, ModelRecord, Records, SplitRecord
from clipstore.store.registry import register
from clipstore.store.scores import read_folder_scores, register_scores
from clipstore.store.storage import shard_storage

_DATASETS = pa.schema(
    [
        ("dataset_id", pa.int64()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("root", pa.string()),
        ("cleaned", pa.bool_()),
    ]
)
_SPLITS = pa.schema(
    [
        ("split_id", pa.int64()),
        ("name", pa.string()),
        ("dataset_id", pa.int64()),
        ("source", pa.string()),
        ("drawn_from", pa.string()),
        ("origin_id", pa.int64()),
    ]
)
_SPLIT_IMAGES = pa.schema([("split_id", pa.int64()), ("image_id", pa.int64()), ("position", pa.int32())])
_IMAGES = pa.schema(
    [
        ("image_id", pa.int64()),
        ("dataset_id", pa.int64()),
        ("source_id", pa.string()),
        ("file_name", pa.string()),
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("size", pa.int64()),
        ("modified_ns", pa.int64()),
        ("content", pa.string()),
        ("problem", pa.string()),
    ]
)
_CATEGORIES = pa.schema(
    [
        ("category_id", pa.int64()),
        ("dataset_id", pa.int64()),
        ("source_id", pa.string()),
        ("name", pa.string()),
        ("supercategory", pa.string()),
    ]
)
_CAPTION_IDS = pa.schema([("dataset_id", pa.int64()), ("place", pa.int64()), ("caption_id", pa.int64())])
_MODELS = pa.schema(
    [
        ("model_id", pa.int64()),
        ("name", pa.string()),
        ("family", pa.string()),
        ("base", pa.string()),
        ("adapter", pa.string()),
        ("prompt", pa.string()),
        ("clean", pa.bool_()),
        ("origin", pa.string()),
        ("exif_orientation", pa.bool_()),
    ]
)
_TOWERS = pa.schema(
    [
        ("model_id", pa.int64()),
        ("tower", pa.string()),
        ("fingerprint", pa.string()),
        ("backbone", pa.string()),
        ("precision", pa.string()),
        ("dim", pa.int32()),
        ("features_dim", pa.int32()),
        ("files_key", pa.string()),
    ]
)
_MATCHING_HEADS = pa.schema(
    [("model_id", pa.int64()), ("fingerprint", pa.string()), ("precision", pa.string()), ("files_key", pa.string())]
)
_TRAINING_IMAGES = pa.schema([("model_id", pa.int64()), ("image_id", pa.int64())])
_TRAINING_CONTENTS = pa.schema([("model_id", pa.int64()), ("content", pa.string())])
_PROBES = pa.schema(
    [
        ("fingerprint", pa.string()),
        ("device", pa.string()),
        ("software", pa.string()),
        ("vector", pa.list_(pa.float32())),
    ]
)
_PRECISION_CHECKS = pa.schema([("fingerprint", pa.string()), ("items", pa.int64()), ("least_cosine", pa.float64())])


def restore_records(session: Session, records: Records) -> None:
    """Add the datasets, images, splits, models and measurements of the records, with their ids."""
    splits = [
        *(split for dataset in records.datasets for split in dataset.splits),
        *(split for group in records.splits for split in group.splits),
    ]
    measured = records.fingerprints
    models = records.models
    tables = {  # the rows to add by the statement that adds them
        "recovery/add_datasets": _rows(_DATASETS, records.datasets),
        "recovery/add_splits": _rows(_SPLITS, splits),
        "recovery/add_split_images": pa.Table.from_batches(map(_split_images, splits), _SPLIT_IMAGES),
        "recovery/add_images": pa.Table.from_batches(map(_images, records.images), _IMAGES),
        "recovery/add_categories": _table(
            _CATEGORIES, (row for dataset in records.datasets for row in _categories(dataset))
        ),
        "recovery/add_models": _rows(_MODELS, models),
        "recovery/add_towers": _table(
            _TOWERS, ({"model_id": model.model_id} | tower for model in models for tower in _towers(model))
        ),
        "recovery/add_matching_heads": _table(_MATCHING_HEADS, filter(None, map(_head, models))),
        "recovery/add_training_images": _by_model(_TRAINING_IMAGES, models),
        "recovery/add_training_contents": _by_model(_TRAINING_CONTENTS, models),
        "recovery/add_probes": _rows(_PROBES, measured.probes),
        "recovery/add_precision_checks": _rows(_PRECISION_CHECKS, measured.precision_checks),
    }
    for name, rows in tables.items():
        session.stage(**{f"staged_{name.partition('/add_')[2]}": rows})
        session.run(name)


def restore_captions(session: Session, sources: Sequence[Source], datasets: Iterable[DatasetRecord]) -> None:
    """Add the captions and categories of the sources; captions get the ids of the records if none has changed.

    Hard negatives are added last, with these ids.
    """
    for source in sources:
        session.run("ingest/set_source", name=source.dataset.name, source=source.file)
        annotations = source.annotations
        if source.dataset.cleaned and annotations.images.num_rows:
            annotations, _ = clean_captions(session, annotations)
        merge_captions(session, annotations)
    counts = {row["dataset_id"]: row["captions"] for row in session.rows("recovery/caption_counts")}
    recorded = {dataset.dataset_id: dataset.caption_ids for dataset in datasets}
    # Only runs of the right total length are expanded: the lengths are those that a file states.
    unchanged = {key: runs for key, runs in recorded.items() if sum(length for _, length in runs) == counts.get(key)}
    batches = [_caption_ids(dataset_id, _numbers(runs)) for dataset_id, runs in unchanged.items()]
    session.stage(staged_caption_ids=pa.Table.from_batches(batches, _CAPTION_IDS))
    last = (first + length - 1 for runs in recorded.values() for first, length in runs)
    session.run("recovery/set_caption_ids", highest=max(last, default=0))
    for source in sources:
        if source.annotations.hard_pairs is not None:
            session.run("ingest/set_source", name=source.dataset.name, source=source.file)
            merge_hard_pairs(session, source.annotations.hard_pairs)


def changed_splits(session: Session, records: Records) -> list[str]:
    """The names of the splits that differ from those of the former catalog, because their source has changed."""
    return [
        split.name
        for dataset in records.datasets
        for split in dataset.splits
        if split_digest(session, split.split_id) != split.digest
    ]


def restore_shards(session: Session, store: Store, records: Records, on_progress: Progress) -> list[Row]:
    """Register the shards in the store, with their rows and failures; "file" and "reason" of those that are not.

    Imported vectors are registered in the order of the imports: later ones replace earlier ones. Other shards of one
    fingerprint have equal vectors of equal items.
    """
    damaged: list[Row] = []
    storage = shard_storage(store)
    imported = {file: place for model in records.models for place, file in enumerate(model.shards)}
    files = _shard_files(storage, imported)

    def complete(*, imports: bool) -> Iterator[Shard]:
        for done, file in enumerate(files, 1):
            if (file in imported) == imports:
                try:
                    yield _checked_shard(storage, file)
                except ShardError as error:
                    damaged.append({"file": file, "reason": str(error)})
                else:
                    on_progress("registering shards", done, len(files))

    register(session, complete(imports=False))
    for shard in complete(imports=True):
        keys = {"fingerprint": [shard.info.fingerprint] * len(shard.contents), "content": shard.contents}
        session.stage(replaced=pa.table(keys, schema=_REPLACED))
        session.run("import/delete_replaced")
        register(session, [shard])
    session.run("recovery/delete_resolved_failures")
    return damaged


def restore_scores(session: Session, store: Store) -> list[Row]:
    """Register the score shards in the store; "file" and "reason" of those that are not."""
    damaged, storage = [], shard_storage(store)
    for file, stored in storage.files("scores").items():
        if is_shard_name(file) and not stored.is_link:
            try:
                register_scores(session, [read_folder_scores(storage, file)])
            except ShardError as error:
                damaged.append({"file": file, "reason": str(error)})
    return damaged


_REPLACED = pa.schema([("fingerprint", pa.string()), ("content", pa.string())])


def _shard_files(storage: Storage, imported: dict[str, int]) -> list[str]:
    """The shards in the order in which they were registered: imported ones by record, others by time of writing."""
    listed = storage.files("shards")
    files = [file for file, stored in listed.items() if is_shard_name(file) and not stored.is_link]
    return sorted(files, key=lambda file: (file in imported, imported.get(file, 0), listed[file].modified_ns, file))


def _checked_shard(storage: Storage, file: str) -> Shard:
    path = storage.path(file)
    with storage.original(file) as stored:
        shard = replace(read_shard(stored, check=True), path=path)
    if shard.info.fingerprint != path.parent.name:
        place = storage.location(file)
        message = f"the shard {place} is of the fingerprint {shard.info.fingerprint}: it is in the wrong folder"
        raise ShardError(message)
    return shard


def _rows(schema: pa.Schema, records: Iterable[msgspec.Struct]) -> pa.Table:
    """A table with a row for each record; fields that the table lacks are left out."""
    return _table(schema, map(msgspec.structs.asdict, records))


def _table(schema: pa.Schema, rows: Iterable[Row]) -> pa.Table:
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)


def _categories(dataset: DatasetRecord) -> Iterator[Row]:
    for category in dataset.categories:
        yield msgspec.structs.asdict(category) | {"dataset_id": dataset.dataset_id}


def _numbers(runs: Iterable[tuple[int, int]]) -> list[int]:
    """The numbers of runs (first number, length)."""
    return [number for first, length in runs for number in range(first, first + length)]


def _caption_ids(dataset_id: int, ids: list[int]) -> pa.RecordBatch:
    columns = {"dataset_id": [dataset_id] * len(ids), "place": list(range(len(ids))), "caption_id": ids}
    return pa.record_batch(columns, schema=_CAPTION_IDS)


def _towers(model: ModelRecord) -> Iterator[Row]:
    yield from map(msgspec.structs.asdict, model.towers)


def _head(model: ModelRecord) -> Row | None:
    head = model.matching_head
    return {"model_id": model.model_id, **msgspec.structs.asdict(head)} if head else None


def _by_model(schema: pa.Schema, models: Iterable[ModelRecord]) -> pa.Table:
    """The training images of all models: "image_id" or "content", as the schema says."""
    key, name = schema.names
    lists: list[tuple[int, list[Any]]] = [
        (model.model_id, model.training_images if name == "image_id" else model.training_contents) for model in models
    ]
    columns = {
        key: [model_id for model_id, values in lists for _ in values],
        name: [value for _, values in lists for value in values],
    }
    return pa.table(columns, schema=schema)


def _split_images(split: SplitRecord) -> pa.RecordBatch:
    positions = range(len(split.images)) if split.positions is None else split.positions
    columns = {
        "split_id": [split.split_id] * len(split.images),
        "image_id": split.images,
        "position": list(positions),
    }
    return pa.record_batch(columns, schema=_SPLIT_IMAGES)


def _images(record: ImagesRecord) -> pa.RecordBatch:
    columns = {name: getattr(record, name) for name in _IMAGES.names if name not in ("dataset_id", "path")}
    paths = [
        record.paths.get(place, "") if prefix is None else record.prefixes[prefix] + name
        for place, (prefix, name) in enumerate(zip(record.prefix, record.file_name, strict=True))
    ]
    columns |= {"dataset_id": [record.dataset_id] * len(paths), "path": paths}
    return pa.record_batch(columns, schema=_IMAGES)
