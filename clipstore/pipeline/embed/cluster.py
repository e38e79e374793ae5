"""The Ray cluster of an embed run: its places for workers, and what all nodes must see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from clipstore.cluster import check_nodes, connect
from clipstore.inference.ray_workers import RayPlaces, cluster_places
from clipstore.pipeline.embed.options import EmbedOptions
from clipstore.pipeline.embed.plan import TowerPlan
from clipstore.records import Model
from clipstore.store.layout import Store
from clipstore.store.locks import cluster_lock

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
        present = check_nodes(list(dict.fromkeys(place.node for place in places)), folders=[store.root])
        yield RayPlaces([place for place in places if place.node in present])


def check_images_seen(places: RayPlaces, plans: Sequence[Sequence[TowerPlan]]) -> None:
    """Check that every node sees the image files that are to be encoded: one of each folder, of the first folders.

    Raises:
        ClusterError: a node does not.
    """
    pending = [items for of_model in plans for plan in of_model if (items := plan.items("image_files"))]
    if not pending:
        return
    sources = pa.concat_tables([items.table.select(["source"]) for items in pending])
    folders = pc.replace_substring_regex(sources["source"], r"[^/]*$", "")
    first = sources.append_column("folder", folders).group_by("folder", use_threads=False)
    names = first.aggregate([("source", "first")])["source_first"].slice(0, _CHECKED_FOLDERS).to_pylist()
    check_nodes(places.nodes, files=[file for file in map(Path, names) if file.is_file()])


def with_absolute_paths(model: Model) -> Model:
    """A model whose local folders have absolute paths: workers run in other working folders."""
    base, adapter = Path(model.base).expanduser(), model.adapter and str(Path(model.adapter).expanduser().absolute())
    return replace(model, base=str(base.absolute()) if base.is_dir() else model.base, adapter=adapter)
