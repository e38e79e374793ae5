"""Encode shard plans into complete shards. Does not use the catalog, so any process can run it.

The calling thread takes decoded images, or texts, and submits them in batches to the threads of the model, whose queue
has a bounded length. Images are prefetched and decoded by further threads, and one thread writes shards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from clipstore.captions import TOO_LONG
from clipstore.encoders.images import AnyPreprocessing
from clipstore.inference.batches import ModelThreads
from clipstore.inference.builder import EncodedRows, ShardBuilder
from clipstore.inference.feed import GroupFeed
from clipstore.inference.prefetch import Pixels, prefetch_images
from clipstore.inference.settings import EncodeSettings
from clipstore.inference.write import write_shards
from clipstore.records import ImageFile, PlanGroup, ShardPlan
from clipstore.shards import Shard

_MAX_PENDING_WRITES = 2  # plan groups whose shards may wait to be written


def encode(
    groups: Iterable[PlanGroup] | GroupFeed,
    settings: Mapping[str, EncodeSettings],
    *,
    on_written: Callable[[list[Shard]], None] = lambda _shards: None,
) -> Iterator[list[Shard]]:
    """Encode plans into shards. Yields the shards of each group, in order, once they are complete.

    `settings` is by fingerprint of a plan's tower. All plans have the same source. A plan of images gives two shards,
    vectors and, if there is a projection head, backbone features. Vectors depend on the plan, the model, the batch size
    and the machine, and not on other plans, except after an out-of-memory error: batches are smaller then, and the last
    bits may differ. `on_written` is called with the same shards, in the same order, by another thread: at once, also
    while the next group is encoded or waited for.

    Raises:
        ShardError: a shard cannot be written, or features cannot be read.
        ModelError: a single item does not fit the device memory.
    """
    feed = groups if isinstance(groups, GroupFeed) else GroupFeed.of(groups)
    submitted, writer = _submit(feed, settings), ThreadPoolExecutor(1, "clipstore-write")
    unwritten: deque[Future[list[Shard]]] = deque()
    try:
        for builders in submitted:
            if builders:
                unwritten.append(writer.submit(_write, builders, on_written))
            while len(unwritten) > _MAX_PENDING_WRITES or (unwritten and unwritten[0].done()):
                yield unwritten.popleft().result()
        while unwritten:
            yield unwritten.popleft().result()
    finally:
        submitted.close()  # before the writer, which waits for the model
        writer.shutdown(cancel_futures=True)


def _write(builders: list[ShardBuilder], on_written: Callable[[list[Shard]], None]) -> list[Shard]:
    shards = write_shards(builders)
    on_written(shards)
    return shards


def encode_rows(plan: ShardPlan, settings: EncodeSettings) -> EncodedRows:
    """Encode a plan in memory, without writing a shard.

    Raises:
        ShardError: features cannot be read.
        ModelError: a single item does not fit the device memory.
    """
    files: tuple[ImageFile, ...] = ()
    if plan.source == "image_files":
        files = tuple(ImageFile(*item, 0) for item in zip(plan.contents, plan.sources, strict=True))
    feed = GroupFeed.of([PlanGroup(plans=(plan,), image_files=files)])
    submitted = _submit(feed, {plan.tower.fingerprint: settings})
    try:
        return next(submitted)[0].rows()
    finally:
        submitted.close()


def _submit(feed: GroupFeed, settings: Mapping[str, EncodeSettings]) -> Generator[list[ShardBuilder]]:
    """Submit each group's items to the model. Yields the builders of its plans once all batches are submitted.

    Yields an empty list where the next group has not arrived yet.
    """
    first_settings = next(iter(settings.values()))
    preprocessings = list(dict.fromkeys(tower.encoder.preprocessing for tower in settings.values()))
    images = prefetch_images(feed.files(), preprocessings, first_settings.timings, read=first_settings.read)
    try:
        with ModelThreads(max(tower.encoder.workers for tower in settings.values())) as threads:
            for group in feed.groups():
                builders = []
                if group:
                    builders = [ShardBuilder(plan, settings[plan.tower.fingerprint], threads) for plan in group.plans]
                    _submit_items(group, builders, images, preprocessings)
                yield builders
    finally:
        images.close()


def _submit_items(
    group: PlanGroup,
    builders: list[ShardBuilder],
    images: Iterator[tuple[str, list[Pixels]]],
    preprocessings: list[AnyPreprocessing],
) -> None:
    if group.image_files:
        _submit_images(len(group.image_files), builders, images, preprocessings)
    for builder in builders:
        if builder.plan.source == "texts":
            _submit_texts(builder)
        elif builder.plan.source == "features":
            _submit_features(builder)


def _submit_images(
    count: int,
    builders: list[ShardBuilder],
    images: Iterator[tuple[str, list[Pixels]]],
    preprocessings: list[AnyPreprocessing],
) -> None:
    """Give each of the next `count` images, decoded once, to every plan that contains it."""
    members = [set(builder.plan.contents) for builder in builders]
    for _ in range(count):
        content, pixel_variants = next(images)
        for builder, contents in zip(builders, members, strict=True):
            if content not in contents:
                continue
            encoder = builder.settings.encoder
            pixels = pixel_variants[preprocessings.index(encoder.preprocessing)]
            if isinstance(pixels, str):
                builder.fail(content, pixels)
            else:
                builder.add(content, pixels, batch_size=max(1, builder.settings.batch_tokens // encoder.image_tokens))
    for builder in builders:
        builder.submit()


def _submit_texts(builder: ShardBuilder) -> None:
    """Submit texts in batches of at most `batch_tokens` tokens, as the model's family composes them."""
    plan, settings = builder.plan, builder.settings
    texts = []
    for content, text in zip(plan.contents, plan.sources, strict=True):
        if text:
            texts.append((content, text))
        else:
            builder.fail(content, "the caption is empty")
    if not texts:
        return
    tokenized = settings.encoder.tokenize([text for _, text in texts])
    builder.cut = tokenized.cut
    items = []
    for (content, _), ids in zip(texts, tokenized.ids, strict=True):
        if ids:
            items.append((content, ids))
        else:
            builder.fail(content, TOO_LONG)
    for batch in settings.encoder.text_batches([ids for _, ids in items], settings.batch_tokens):
        for number in batch:
            builder.add(*items[number], batch_size=len(batch))


def _submit_features(builder: ShardBuilder) -> None:
    """Submit stored features in one batch: a projection head is one matrix product."""
    plan, storage = builder.plan, builder.settings.storage
    shards = {file: storage.locate(shard, file) for file, shard in plan.shards.items()}
    for content, file, row in zip(plan.contents, plan.sources, plan.rows, strict=True):
        builder.add(content, (shards[file], row), batch_size=len(plan.contents))
