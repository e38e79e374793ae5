"""Damaged files: flipped bits, truncated and zeroed files, of shards, of the catalog and of adapters.

Damage to a shard is named by `verify` and repaired to the same bytes; damage to any file never gives a traceback, nor
metrics other than those of the undamaged store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from torture.attacks import Outcome
from torture.processes import run
from torture.workspaces import EMBED, EVAL, Workspaces, content, differences

_EVAL = (*EVAL, "--json")
_EVAL_TUNED = ("eval", "--model", "tuned", "--split", "t/val", "--json")


def flip_bit(file: Path, random: Random) -> str:
    """Flip one bit of a file; returns which."""
    data = bytearray(file.read_bytes())
    position, bit = random.randrange(len(data)), random.randrange(8)
    data[position] ^= 1 << bit
    file.write_bytes(data)
    return f"bit {bit} of byte {position:,} of {len(data):,}"


def truncate(file: Path, random: Random) -> str:
    """Cut a file at a random length; returns which."""
    data = file.read_bytes()
    length = random.randrange(len(data))
    file.write_bytes(data[:length])
    return f"cut to {length:,} of {len(data):,} bytes"


def zero_half(file: Path, random: Random) -> str:
    """Overwrite the first or second half of a file with zeros; returns which."""
    data = bytearray(file.read_bytes())
    half = len(data) // 2
    first = random.random() < 0.5
    data[slice(0, half) if first else slice(half, None)] = bytes(half if first else len(data) - half)
    file.write_bytes(data)
    return f"{'first' if first else 'second'} half zeroed"


Damage = Callable[[Path, Random], str]


def flipped_shards(workspaces: Workspaces, random: Random, count: int) -> Iterator[Outcome]:
    """Flipped bits in shards."""
    yield from _damaged_shards(workspaces, random, count, flip_bit)


def truncated_shards(workspaces: Workspaces, random: Random, count: int) -> Iterator[Outcome]:
    """Truncated and half-zeroed shards."""
    for number in range(count):
        yield from _damaged_shards(workspaces, random, 1, (truncate, zero_half)[number % 2])


def _damaged_shards(workspaces: Workspaces, random: Random, count: int, damage: Damage) -> Iterator[Outcome]:
    whole = content(workspaces.copy("embedded"))
    for _ in range(count):
        workspace = workspaces.copy("embedded")
        shard = random.choice(sorted((workspace / "store" / "shards").rglob("*.h5")))
        what = damage(shard, random)
        yield Outcome(f"{shard.name}: {what}", _repaired(workspace, shard, whole))


def _repaired(workspace: Path, shard: Path, whole: dict[str, object]) -> str | None:
    """Verify, repair and embed again; why the damage was not named, or the store not restored to the same bytes."""
    verified = run(workspace, "verify", "--json")
    if verified.fault:
        return verified.fault
    if verified.code == 0:
        return "verify found nothing"
    if shard.name not in verified.stdout:
        return f"verify does not name the file: {verified.stdout[:200]} {verified.stderr[:200]}"
    for words in (("verify", "--repair"), EMBED):
        result = run(workspace, *words)
        if result.fault:
            return f"{words[0]}: {result.fault}"
    restored = {name: value for name, value in content(workspace).items() if not name.startswith("quarantine/")}
    changed = [name for name in differences(whole, restored) if name != "files"]
    return f"not restored: {', '.join(changed)}" if changed else None


def damaged_catalogs(workspaces: Workspaces, random: Random, count: int) -> Iterator[Outcome]:
    """Flipped bits in, and truncations of, the catalog: the right metrics, or one line of advice."""
    metrics = _metrics(run(workspaces.copy("evaluated"), *_EVAL).stdout)
    for number in range(count):
        workspace = workspaces.copy("evaluated")
        what = (flip_bit, truncate)[number % 2](workspace / "store" / "catalog.duckdb", random)
        result = run(workspace, *_EVAL)
        fault = result.fault
        if not fault and result.code == 0 and _metrics(result.stdout) != metrics:
            fault = "other metrics"
        if not fault and result.code and "catalog" not in result.stderr:
            fault = f"the message does not name the catalog: {result.stderr}"
        yield Outcome(f"catalog: {what}", fault)


def damaged_adapters(workspaces: Workspaces, random: Random, count: int) -> Iterator[Outcome]:
    """Flipped bits in the files of an adapter: refused, or embedded under another fingerprint."""
    metrics = _metrics(run(workspaces.copy("trained"), *_EVAL_TUNED).stdout)
    for _ in range(count):
        workspace = workspaces.copy("trained")
        files = sorted((workspace / "store" / "adapters" / "tuned" / "best").iterdir())
        file = random.choice(files)
        what = flip_bit(file, random)
        result = run(workspace, *_EVAL_TUNED)
        fault = result.fault
        if not fault and result.code == 0 and _metrics(result.stdout) != metrics:
            fault = "other metrics from the stored vectors"
        yield Outcome(f"{file.name}: {what}", fault)


def _metrics(stdout: str) -> object:
    return json.loads(stdout)["evaluations"][0]["metrics"] if stdout else None
