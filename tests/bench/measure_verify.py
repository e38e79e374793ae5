"""Measure `clipstore verify` on a store of many vectors: python tests/bench/measure_verify.py FOLDER [ROWS [WIDTH]].

Prints the time, the rate as a share of reading and hashing alone, and the peak memory of the process, as JSON. The
store is made in FOLDER first, and removed at the end.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from clipstore.shards import ShardInfo, normalize, write_shard
from clipstore.store.layout import Store
from clipstore.store.registry import register

FINGERPRINT, SHARD_ROWS = "f" * 64, 8192
VERIFY = (
    "import json, sys, time; from pathlib import Path\n"
    "from clipstore.pipeline.verify.run import verify; from clipstore.process import peak_memory\n"
    "from clipstore.store.layout import Store\n"
    "start = time.perf_counter(); result = verify(Store(Path(sys.argv[1])))\n"
    "kinds = [row['kind'] for row in result['problems']]\n"
    "print(json.dumps([time.perf_counter() - start, peak_memory(), result['vectors'], kinds]))"
)


def make_store(folder: Path, rows: int, width: int) -> Store:
    """A store with shards of random unit vectors and no other contents."""
    store, random = Store(folder), np.random.default_rng(0)
    info = ShardInfo(
        kind="vectors",
        tower="text",
        fingerprint=FINGERPRINT,
        model="m",
        family="clip",
        precision="fp32",
        normalised=True,
        cut=0,
        software="{}",
    )
    values = normalize(random.normal(size=(SHARD_ROWS, width)), "float32")
    for start in range(0, rows, SHARD_ROWS):
        numbers = range(start, min(start + SHARD_ROWS, rows))
        keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]
        path = store.shards / FINGERPRINT / f"text-{start:016x}.h5"
        shard = write_shard(path, info, np.roll(values, start // SHARD_ROWS, axis=1)[: len(keys)], keys, {})
        with store.catalog.write(create=True) as session:
            register(session, store, [shard])
    return store


def seconds_to_hash(store: Store) -> tuple[float, int]:
    """The seconds to read and hash every shard in one thread, and their bytes."""
    start, size = time.perf_counter(), 0
    for path in sorted(store.shards.rglob("*.h5")):
        with path.open("rb", buffering=0) as file:
            hashlib.file_digest(file, "sha256")
        size += path.stat().st_size
    return time.perf_counter() - start, size


def main() -> None:
    """Make the store, measure, print."""
    folder = Path(sys.argv[1]) / "measure-verify"
    rows, width = (int(word) for word in (*sys.argv[2:], *("1000000", "512")[len(sys.argv) - 2 :]))
    try:
        store = make_store(folder, rows, width)
        hashing, size = seconds_to_hash(store)
        printed = subprocess.run([sys.executable, "-c", VERIFY, str(folder)], capture_output=True, check=True).stdout
        seconds, peak, vectors, problems = json.loads(printed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    share = {"seconds": seconds, "hashing_seconds": hashing, "share": hashing / seconds}
    print(json.dumps({"vectors": vectors, "bytes": size, **share, "peak_memory": peak, "problems": problems}))


if __name__ == "__main__":
    main()
