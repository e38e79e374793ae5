"""The Ray cluster of an embed run: its places for workers, and what all nodes must see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from clipstore.cluster import check_nodes, connect
from clipstore.inference.ray_workers import RayPlaces, cluster_places
from clipstore.pipeline.embed.options import EmbedOptions
from clipstore.pipeline.embed.plan import TowerPlan
from clipstore.shards import ObjectStorage
from clipstore.store.layout import Store
from clipstore.store.locks import cluster_lock
from clipstore.store.storage import shard_storage

_CHECKED_FOLDERS = 32  # of images, in each of which one file is looked for on every node


@contextmanager
def cluster_of(store: Store, options: EmbedOptions) -> Iterator[RayPlaces | None]:
    """The cluster that the options name, once its nodes are checked; None: they name none.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: no cluster answers, or a node has other versions or does not see the store.
        ShardError: another process embeds into the store on a cluster.
    """
    if options.ray is None:
        yield None
        return
    with cluster_lock(store), connect(options.ray) as nodes:
        places = cluster_places(nodes, options.ray_cpus)
        folders = [] if isinstance(shard_storage(store), ObjectStorage) else [store.root]
        present = check_nodes(list(dict.fromkeys(place.node for place in places)), folders=folders)
        yield RayPlaces([place for place in places if place.node in present])


def check_images_seen(places: RayPlaces, plans: Sequence[Sequence[TowerPlan]]) -> None:
    """Check that every node sees the image files that are to be encoded: one of each folder, of the first folders.

    Raises:
        ClusterError: a node does not.
    """
    files: dict[str, Path] = {}
    pending = [items for of_model in plans for plan in of_model if (items := plan.items("image_files"))]
    for table in (part for items in pending for part in items.rows.parts()):
        for folder, source in _first_of_folders(table):
            if len(files) < _CHECKED_FOLDERS and Path(source).is_file():
                files.setdefault(folder, Path(source))
        if len(files) == _CHECKED_FOLDERS:
            break
    check_nodes(places.nodes, files=files.values())


def _first_of_folders(images: pa.Table) -> Iterator[tuple[str, str]]:
    """The folders of some images, each with its first image."""
    folders = pc.replace_substring_regex(images["source"], r"[^/]*$", "")
    first = images.select(["source"]).append_column("folder", folders).group_by("folder", use_threads=False)
    table = first.aggregate([("source", "first")])
    return zip(table["folder"].to_pylist(), table["source_first"].to_pylist(), strict=True)
