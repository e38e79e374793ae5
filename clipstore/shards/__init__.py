"""Shards: one immutable HDF5 file each, checked when it is written and when it is read.

docs/shard-format.md is the normative format. This package alone imports h5py.
"""

from clipstore.shards.description import FORMAT_VERSION, Shard, ShardInfo, normalize, software
from clipstore.shards.read import (
    check,
    check_file_unchanged,
    clear_checks,
    gather,
    local_file,
    read_rows,
    read_shard,
    registered_differences,
    unchanged_keys,
)
from clipstore.shards.scan import ShardScan, file_checksum, scan_shard
from clipstore.shards.scores import PairScores, ScoreInfo, ScoreShard, read_scores, write_scores
from clipstore.shards.stamps import FileStamp, file_stamp
from clipstore.shards.storage import (
    FOLDERS,
    LocalStorage,
    ObjectStorage,
    Storage,
    StoredFile,
    is_shard_name,
    shard_file,
)
from clipstore.shards.temporary import temporary_files
from clipstore.shards.write import expected_bytes, write_shard

__all__ = [
    "FOLDERS",
    "FORMAT_VERSION",
    "FileStamp",
    "LocalStorage",
    "ObjectStorage",
    "PairScores",
    "ScoreInfo",
    "ScoreShard",
    "Shard",
    "ShardInfo",
    "ShardScan",
    "Storage",
    "StoredFile",
    "check",
    "check_file_unchanged",
    "clear_checks",
    "expected_bytes",
    "file_checksum",
    "file_stamp",
    "gather",
    "is_shard_name",
    "local_file",
    "normalize",
    "read_rows",
    "read_scores",
    "read_shard",
    "registered_differences",
    "scan_shard",
    "shard_file",
    "software",
    "temporary_files",
    "unchanged_keys",
    "write_scores",
    "write_shard",
]
