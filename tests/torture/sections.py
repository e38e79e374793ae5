"""The sections of attacks by name."""

from __future__ import annotations

from torture.attacks import Section
from torture.damage import damaged_adapters, damaged_catalogs, flipped_shards, truncated_shards
from torture.disk import full_disks, limited_files
from torture.kills import kills_at_steps, random_kills
from torture.signals import signals
from torture.writers import two_writers

SECTIONS: dict[str, Section] = {
    "random kills": random_kills,
    "kills at steps": kills_at_steps,
    "flipped shards": flipped_shards,
    "truncated shards": truncated_shards,
    "damaged catalogs": damaged_catalogs,
    "damaged adapters": damaged_adapters,
    "limited files": limited_files,
    "full disks": full_disks,
    "two writers": two_writers,
    "signals": signals,
}
