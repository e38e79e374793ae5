"""Scores of matching heads: their shards in the catalog, and the scores of the pairs of a gallery."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.errors import ShardError
from clipstore.records import MatchingHead, Row
from clipstore.shards import ScoreShard, Storage, is_shard_name, read_scores, shard_file
from clipstore.store.layout import Store
from clipstore.store.storage import shard_storage

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredScores:
    """The stored scores of pairs of some images and texts.

    Attributes:
        codes: (S,) int64, ascending: row of the image x number of texts + row of the text.
        scores: (S,) float32.
    """

    codes: Ints
    scores: Floats

    @classmethod
    def none(cls) -> StoredScores:
        """No scores."""
        return cls(codes=np.empty(0, dtype=np.int64), scores=np.empty(0, dtype=np.float32))

    def find(self, codes: Ints) -> Floats:
        """The scores of pairs, of the shape of `codes`; NaN for pairs that have none."""
        if not len(self.codes):
            return np.full(codes.shape, np.nan, dtype=np.float32)
        places = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[places] == codes, self.scores[places], np.float32(np.nan))


def recorded_head(session: Session, model_id: int) -> MatchingHead | None:
    """The recorded matching head of a model; None before its first pair is scored."""
    row = session.row("rerank/head", model_id=model_id)
    return MatchingHead(fingerprint=row["fingerprint"], precision=row["precision"]) if row else None


def record_head(session: Session, model_id: int, head: MatchingHead, files_key: str) -> None:
    """Replace the current matching head of a model."""
    session.run("rerank/delete_head", model_id=model_id)
    session.run(
        "rerank/add_head",
        model_id=model_id,
        fingerprint=head.fingerprint,
        precision=head.precision,
        files_key=files_key,
    )


def register_scores(session: Session, shards: Sequence[ScoreShard]) -> None:
    """Add complete score shards to the catalog; one that is registered is replaced."""
    rows = [_shard_row(shard) for shard in shards]
    session.stage(staged_score_shards=pa.Table.from_pylist(rows))
    session.run("rerank/delete_shards", files=[row["file"] for row in rows])
    session.run("rerank/add_shards")


def _shard_row(shard: ScoreShard) -> Row:
    return {
        "fingerprint": shard.info.fingerprint,
        "file": shard_file(shard.path),
        "pairs": len(shard.scores.score),
        "bytes": shard.size,
        "checksum": shard.checksum,
        "file_checksum": shard.file_checksum,
    }


def stored_scores(store: Store, fingerprint: str, images: Sequence[str], texts: Sequence[str]) -> StoredScores:
    """The stored scores of all pairs of images and texts, which are distinct content keys.

    Raises:
        ShardError: a registered shard is missing, damaged or not the one that was registered.
    """
    with store.catalog.read() as session:
        rows = session.rows("rerank/shards", fingerprint=fingerprint)
    keys, storage = (pa.array(images, pa.string()), pa.array(texts, pa.string())), shard_storage(store)
    parts = [_pairs_of(_read_registered(storage, row), *keys) for row in rows]
    codes = np.concatenate([np.empty(0, np.int64), *(codes for codes, _ in parts)])
    scores = np.concatenate([np.empty(0, np.float32), *(scores for _, scores in parts)])
    unique, first = np.unique(codes, return_index=True)  # of a pair in two shards, the score of the first
    return StoredScores(codes=unique, scores=scores[first])


def _pairs_of(shard: ScoreShard, images: pa.Array, texts: pa.Array) -> tuple[Ints, Floats]:
    """The codes and scores of a shard's pairs of these images and texts."""
    scores = shard.scores
    image = _places(scores.image_contents, images)[scores.image]
    text = _places(scores.text_contents, texts)[scores.text]
    known = (image >= 0) & (text >= 0)
    return image[known] * len(texts) + text[known], scores.score[known]


def _places(contents: list[str], keys: pa.Array) -> Ints:
    """The place of each content among `keys`, -1 for those that are not there."""
    found = pc.index_in(pa.array(contents, pa.string()), value_set=keys)
    return np.asarray(pc.fill_null(found, -1).to_numpy(), dtype=np.int64)


def _read_registered(storage: Storage, row: Row) -> ScoreShard:
    """A registered score shard.

    Raises:
        ShardError: it is missing, damaged, or not the one that was registered.
    """
    with storage.reading(row["file"], row["file_checksum"]) as path:
        shard = read_scores(path)
    if shard.checksum != row["checksum"] or shard.info.fingerprint != row["fingerprint"]:
        place = storage.location(row["file"])
        message = (
            f"the shard {place} is not the one that the catalog has registered: 'clipstore verify --repair' moves "
            "it to quarantine, then rerank again"
        )
        raise ShardError(message)
    return shard


def score_files(storage: Storage, fingerprint: str) -> list[str]:
    """The files of a fingerprint with the name of a score shard, in order."""
    listed = storage.files(f"scores/{fingerprint}")
    return [file for file, stored in listed.items() if stored.is_file and is_shard_name(file)]


def adopt_scores(store: Store, fingerprint: str) -> list[ScoreShard]:
    """Register the complete score shards of a fingerprint that are not registered, unregister those whose files are
    missing, and remove temporary files of processes that have ended.

    A file that is damaged is left where it is: the shard of its pairs has the same name and replaces it. The caller
    holds the lock for writing shards.
    """
    storage = shard_storage(store)
    for leftover in storage.leftovers(f"scores/{fingerprint}"):
        storage.remove(leftover)
    with store.catalog.read() as session:
        registered = {row["file"] for row in session.rows("rerank/shards", fingerprint=fingerprint)}
    files = score_files(storage, fingerprint)
    complete = list(_complete(storage, [file for file in files if file not in registered]))
    missing = sorted(registered - set(files))
    if complete or missing:
        with store.catalog.write() as session:
            session.run("rerank/delete_shards", files=missing)
            if complete:
                register_scores(session, complete)
    return complete


def read_folder_scores(storage: Storage, file: str) -> ScoreShard:
    """A score shard that is in the folder of its fingerprint.

    Raises:
        ShardError: it is damaged, or in another folder.
    """
    path = storage.path(file)
    with storage.original(file) as stored:
        shard = replace(read_scores(stored), path=path)
    if shard.info.fingerprint != path.parent.name:
        place = storage.location(file)
        message = f"the shard {place} is of the fingerprint {shard.info.fingerprint}: it is in the wrong folder"
        raise ShardError(message)
    return shard


def _complete(storage: Storage, files: Iterable[str]) -> Iterator[ScoreShard]:
    """The valid score shards among some files."""
    for file in files:
        with suppress(ShardError):
            yield read_folder_scores(storage, file)
