"""Shards: one immutable HDF5 file each, checked when it is written and when it is read.

docs/shard-format.md is the normative format. This package alone imports h5py.
"""

from clipstore.shards.description import FORMAT_VERSION, Shard, ShardInfo, normalize, software
from clipstore.shards.read import (
    FileStamp,
    check,
    check_file_unchanged,
    clear_checks,
    file_stamp,
    gather,
    read_rows,
    read_shard,
    registered_differences,
    unchanged_keys,
)
from clipstore.shards.scan import ShardScan, file_checksum, scan_shard
from clipstore.shards.scores import PairScores, ScoreInfo, ScoreShard, read_scores, write_scores
from clipstore.shards.write import expected_bytes, temporary_files, write_shard

__all__ = [
    "FORMAT_VERSION",
    "FileStamp",
    "PairScores",
    "ScoreInfo",
    "ScoreShard",
    "Shard",
    "ShardInfo",
    "ShardScan",
    "check",
    "check_file_unchanged",
    "clear_checks",
    "expected_bytes",
    "file_checksum",
    "file_stamp",
    "gather",
    "normalize",
    "read_rows",
    "read_scores",
    "read_shard",
    "registered_differences",
    "scan_shard",
    "software",
    "temporary_files",
    "unchanged_keys",
    "write_scores",
    "write_shard",
]
