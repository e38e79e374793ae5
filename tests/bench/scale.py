"""Measure a store of made items at several sizes: python tests/bench/scale.py FOLDER [IMAGES …] [--steps STEP,…].

The catalog is made by SQL: images with made content keys and no image files, one caption each, and a model of two
towers of 64 columns. Each step runs in a process of its own, and its time and peak memory are printed as JSON lines:

    plan      plan both towers of an empty model, and cut the items into plans
    plan_files      the same, written as plan files of 10,000 items each, as `clipstore plan` writes them
    register_plans  `clipstore register` of these, once made shards and manifests are there
    register  read and check shards of 10,000 rows as they are after encoding, and register them
    gallery   find the gallery of the split with all vectors, and its provenance
    eval      `evaluate`: rank the gallery and store the evaluation (all pairs: the work is the square of the size)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np

from clipstore.catalog import MemoryLimit
from clipstore.inference.encode_plans import select_plans
from clipstore.inference.manifests import write_manifest
from clipstore.inference.plan_files import Plan, read_file
from clipstore.inference.write import plan_file
from clipstore.pipeline.embed.options import EmbedOptions
from clipstore.pipeline.embed.plan import plan_groups, plan_towers
from clipstore.pipeline.embed.state import EmbedModel, EmbedRun
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.provenance import gallery_provenance
from clipstore.pipeline.evaluate.run import evaluate
from clipstore.pipeline.plans.register import register_plans
from clipstore.pipeline.plans.write import PlanWriter
from clipstore.process import peak_memory
from clipstore.records import ITEM_KIND, Model, Tower, TowerName
from clipstore.shards import ShardInfo, normalize, read_shard, write_shard
from clipstore.store.gallery import find_gallery
from clipstore.store.layout import Store
from clipstore.store.registry import register
from clipstore.store.settings import store_id

SPLIT, DIM, SHARD_ITEMS = "made/all", 64, 10_000
MODEL = Model(name="made", family="clip", base="/made/model")
TOWERS = tuple(
    Tower(tower=name, fingerprint=hashlib.sha256(name.encode()).hexdigest(), precision="fp32", dim=DIM)
    for name in ("image", "text")
)
STEPS = ("plan", "register", "gallery")
FILES_AT_ONCE = 100  # shards that one transaction registers

_ROWS = """
INSERT INTO datasets VALUES (1, 'made', 'coco', '/made', FALSE);
INSERT INTO splits VALUES (1, 'made/all', 1, '/made/captions.json', NULL, NULL);
INSERT INTO images SELECT n, 1, n::VARCHAR, format('{:012d}.jpg', n), format('/made/images/{:012d}.jpg', n),
    640, 480, 50000, n, sha256('image ' || n), NULL FROM range(1, $images + 1) AS made (n);
INSERT INTO captions SELECT n, n, n::VARCHAR, 'the made caption number ' || n || ' of an image with a few things', 0
    FROM range(1, $images + 1) AS made (n);
INSERT INTO split_images SELECT 1, n, n - 1 FROM range(1, $images + 1) AS made (n);
INSERT INTO models VALUES (1, 'made', 'clip', '/made/model', NULL, NULL, FALSE, 'added', FALSE);
"""


def make_catalog(store: Store, images: int) -> None:
    """A catalog of `images` images with one caption each, and the model without vectors."""
    store.root.mkdir(parents=True)
    with store.catalog.write(create=True):
        pass
    with duckdb.connect(str(store.catalog.path)) as connection:
        for text in filter(str.strip, _ROWS.split(";")):
            connection.execute(text, {"images": images} if "$images" in text else None)
        for tower in TOWERS:
            row = [1, tower.tower, tower.fingerprint, None, tower.precision, tower.dim, 0, "made"]
            connection.execute("INSERT INTO towers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def make_shards(store: Store, images: int) -> None:
    """Write the shards of all items of both towers: random unit vectors, a block of which is used again and again."""
    values = normalize(np.random.default_rng(0).normal(size=(2 * SHARD_ITEMS, DIM)), "float16")
    for tower in TOWERS:
        for start in range(0, images, SHARD_ITEMS):
            path = store.shards / tower.fingerprint / f"{tower.tower}-{start:016x}.h5"
            keys = [_key(tower.tower, item + 1) for item in range(start, min(start + SHARD_ITEMS, images))]
            shift = start // SHARD_ITEMS % SHARD_ITEMS  # so that no two shards have the same rows
            write_shard(path, _info(tower), values[shift : shift + len(keys)], keys, {})


def _key(tower: TowerName, item: int) -> str:
    text = f"image {item}" if tower == "image" else f"the made caption number {item} of an image with a few things"
    return hashlib.sha256(text.encode()).hexdigest()


def _info(tower: Tower) -> ShardInfo:
    return ShardInfo(
        kind="vectors",
        tower=tower.tower,
        fingerprint=tower.fingerprint,
        model=MODEL.name,
        family=MODEL.family,
        precision=tower.precision,
        normalised=True,
        cut=0,
        software="{}",
    )


def plan(store: Store) -> int:
    """Plan all items of both towers; returns their number."""
    (plans,) = plan_towers(store, [(MODEL, TOWERS)], splits=None, retry=False)
    items = [plan_groups([pending]) for tower in plans for pending in tower.pending]
    return sum(len(shard.contents) for groups in items for group in groups for shard in group.plans)


def register_all(store: Store) -> int:
    """Read the description of every shard, as after encoding, and register them; returns the number of shards."""
    files = [path for tower in TOWERS for path in sorted((store.shards / tower.fingerprint).glob("*.h5"))]
    for start in range(0, len(files), FILES_AT_ONCE):
        with store.catalog.write(limit=MemoryLimit.REGISTER) as session:
            shards = (read_shard(path, check=True) for path in files[start : start + FILES_AT_ONCE])
            register(session, shards)
    return len(files)


def write_plan_files(store: Store) -> int:
    """Write the plan files of all items of both towers; returns their number."""
    options = EmbedOptions()
    model = EmbedModel.of(MODEL, TOWERS, "made", options)
    run = EmbedRun(store=store, options=options, splits=None, models=[model])
    writer = PlanWriter(store.root / "plans", store_id(store), dict.fromkeys(ITEM_KIND, SHARD_ITEMS))
    (plans,) = plan_towers(store, [(MODEL, TOWERS)], splits=None, retry=False)
    model.count(plans)
    for tower in plans:
        for pending in tower.pending:
            writer.add(run, [(model, pending)])
    return len(writer.finish(store.root).plans)


def make_encoded(store: Store) -> None:
    """Write made shards and manifests for all plan files."""
    values = normalize(np.random.default_rng(0).normal(size=(2 * SHARD_ITEMS, DIM)), "float16")
    for path in select_plans([store.root / "plans"]):
        plan, digest = read_file(path, "plan", Plan)
        storage = plan.storage(store.root)
        (part,) = plan.group(storage).plans
        file = storage.path(plan_file(part, part.tower.fingerprint))
        shift = int(path.stem) % SHARD_ITEMS
        rows = values[shift : shift + len(part.contents)]
        write_manifest(path, digest, [write_shard(file, _info(part.tower), rows, part.contents, {})])


def register_encoded(store: Store) -> int:
    """Register all plans; returns the number of items."""
    result = register_plans(store, store.root / "plans")
    assert not result.missing
    assert not result.problems
    return result.items


def gallery(store: Store) -> int:
    """Find the gallery and its provenance, as an evaluation does before it ranks; returns the pairs."""
    with store.catalog.read() as session:
        found = find_gallery(store, session, MODEL, SPLIT, partial=False)
        gallery_provenance(session, MODEL, SPLIT, found)
    return len(found.pairs)


def rank(store: Store) -> int:
    """Rank the gallery and store the evaluation; returns the number of scores."""
    (result,) = evaluate(store, [MODEL.name], SPLIT, EvalOptions(memory=2 * 2**30)).evaluations
    return int(result["measured_on"]["scores"])


_STEPS: dict[str, Callable[[Store], int]] = {
    "plan": plan,
    "plan_files": write_plan_files,
    "register_plans": register_encoded,
    "register": register_all,
    "gallery": gallery,
    "eval": rank,
}


def measure(store: Store, step: str) -> dict[str, float]:
    """The result of a step in a fresh process: what it counted, seconds, and peak memory in bytes."""
    command = [sys.executable, __file__, str(store.root), "--step", step]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    if output.returncode:
        raise RuntimeError(output.stderr)
    return json.loads(output.stdout)


def measure_size(folder: Path, images: int, steps: tuple[str, ...] = STEPS) -> Iterator[dict[str, object]]:
    """Make a store of `images` images in `folder`, measure the steps, and remove it."""
    store = Store(folder / f"scale-{images}")
    try:
        make_catalog(store, images)
        if set(steps) & {"register", "gallery", "eval"}:
            make_shards(store, images)
        for step in steps:
            if step == "register_plans":
                make_encoded(store)
            load = os.getloadavg()[0]
            yield {"images": images, "step": step, **measure(store, step), "load": load}
        yield {"images": images, "step": "catalog", "bytes": store.catalog.path.stat().st_size}
    finally:
        shutil.rmtree(store.root, ignore_errors=True)


def main() -> None:
    """Run one step in this process, or measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--step", choices=_STEPS, help="run this step in this process, in the store FOLDER")
    arguments = parser.parse_args()
    if arguments.step:
        start = time.perf_counter()
        count = _STEPS[arguments.step](Store(arguments.folder))
        times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time()}
        print(json.dumps({"count": count, **times, "peak_memory": peak_memory()}))
        return
    for images in arguments.images:
        for row in measure_size(arguments.folder, images, tuple(arguments.steps.split(","))):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
