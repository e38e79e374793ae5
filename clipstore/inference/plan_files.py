"""Plan files: plan groups as JSON, which can be encoded without the catalog, and the index of a folder of them.

A folder of plans has `index.json`, one file for each plan group, and `manifests/` with a file for each plan that was
encoded (see manifests.py). The same plan group always has the same file. docs/plan-files.md has the format.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from clipstore.encoders.probe import Probe
from clipstore.errors import PlanError
from clipstore.files import read_regular, write_whole
from clipstore.inference.loading import WorkerSettings
from clipstore.json_decoding import decode_json
from clipstore.objects import url_of
from clipstore.records import (
    ImageFile,
    Model,
    PlanGroup,
    PlanSource,
    RegisteredShard,
    ShardKind,
    ShardPlan,
    Tower,
    TowerName,
)
from clipstore.shards import LocalStorage, ObjectStorage, Storage, is_shard_name

FORMAT_VERSION = 1

INDEX = "index.json"
MANIFESTS = "manifests"

_KEY = r"^[0-9a-f]{64}$"
Key = Annotated[str, Meta(pattern=_KEY)]
Content = TypeVar("Content")


class PlannedTower(msgspec.Struct, kw_only=True, frozen=True):
    """A tower that the items of a plan are encoded for.

    Attributes:
        items: the numbers of its items; None: all items of the plan.
        probes: the stored probes, by the tower's name and "backbone".
    """

    model: Model
    tower: Tower
    store_dtype: Annotated[str, Meta(pattern=r"^float(32|16)$")]
    items: list[Annotated[int, Meta(ge=0)]] | None = None
    probes: dict[str, Probe] = {}


class FeatureShard(msgspec.Struct, kw_only=True, frozen=True):
    """A registered shard that holds backbone features of items (see `RegisteredShard`)."""

    kind: ShardKind
    tower: TowerName
    fingerprint: str
    items: int
    dim: int
    dtype: str
    checksum: str
    file_checksum: str | None


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """A plan file: the items of one shard of each tower.

    Attributes:
        store, folder: the id and the folder of the store.
        shards_url: the URL of its shards; None: they are in its folder.
        memory: device memory for weights and batches, in bytes, on which the size of batches depends.
        source: what `sources` are: paths of image files, texts, or files of feature shards relative to the store.
        contents: the content keys of the items.
        sizes: bytes of the image files; empty for other sources.
        rows: rows in the feature shards; empty for other sources.
        shards: the feature shards, by file.
    """

    store: str
    folder: str
    shards_url: str | None = None
    memory: Annotated[int, Meta(ge=1)]
    source: PlanSource
    towers: Annotated[list[PlannedTower], Meta(min_length=1)]
    contents: Annotated[list[Key], Meta(min_length=1)]
    sources: list[str]
    sizes: list[Annotated[int, Meta(ge=0)]] = []
    rows: list[Annotated[int, Meta(ge=0)]] = []
    shards: dict[str, FeatureShard] = {}

    def __post_init__(self) -> None:
        """Check that the parts agree, for a file may have been edited.

        Raises:
            ValueError: they do not.
        """
        count, fingerprints = len(self.contents), [planned.tower.fingerprint for planned in self.towers]
        lengths = (len(self.sources), len(self.sizes), len(self.rows))
        images, features = self.source == "image_files", self.source == "features"
        faults = {
            f"{lengths} sources, sizes and rows for {count} {self.source}": lengths
            != (count, count * images, count * features),
            "an item is in it twice": len({*self.contents}) != count,
            "a tower is in it twice": len({*fingerprints}) != len(fingerprints),
            "the path of an image has a null character": images and any("\0" in source for source in self.sources),
            "a shard with features is not described": features and not {*self.sources} <= self.shards.keys(),
            "a shard with features has another name": not all(map(is_shard_name, self.shards)),
            "shards_url is not a URL of object storage": self.shards_url not in (None, url_of(self.shards_url or "")),
            "a tower has another source": any(
                (t.tower.tower == "text") != (self.source == "texts") for t in self.towers
            ),
            "a fingerprint is not a SHA-256": not all(map(_has_sha_names, self.towers)),
            "the items of a tower are not numbers of items": any(not _has_items(t, count) for t in self.towers),
        }
        for fault, present in faults.items():
            if present:
                raise ValueError(fault)

    @property
    def root(self) -> Path:
        """The folder of the store."""
        return Path(self.folder)

    def storage(self, root: Path) -> Storage:
        """The storage of the shards of the store, whose folder is `root`."""
        return ObjectStorage(self.shards_url) if self.shards_url else LocalStorage(root)

    def group(self, storage: Storage) -> PlanGroup:
        """The plan group, with the feature shards in a storage."""
        shards = {
            file: storage.locate(RegisteredShard(path=Path(file), **msgspec.structs.asdict(shard)), file)
            for file, shard in self.shards.items()
        }
        images = zip(self.contents, self.sources, self.sizes, strict=True) if self.source == "image_files" else ()
        return PlanGroup(
            plans=tuple(self._shard_plan(tower, shards) for tower in self.towers),
            image_files=tuple(ImageFile(*image) for image in images),
        )

    def settings(self, storage: Storage) -> dict[str, WorkerSettings]:
        """The settings of its towers by fingerprint, which write shards into a storage."""
        return {
            planned.tower.fingerprint: WorkerSettings(
                storage=storage,
                model=planned.model,
                tower=planned.tower,
                store_dtype=planned.store_dtype,
                memory=self.memory,
                probes=planned.probes,
            )
            for planned in self.towers
        }

    def _shard_plan(self, planned: PlannedTower, shards: Mapping[str, RegisteredShard]) -> ShardPlan:
        chosen = range(len(self.contents)) if planned.items is None else planned.items
        return ShardPlan(
            tower=planned.tower,
            source=self.source,
            contents=[self.contents[item] for item in chosen],
            sources=[self.sources[item] for item in chosen],
            rows=[self.rows[item] for item in chosen] if self.rows else [],
            shards=shards,
        )


def _has_sha_names(planned: PlannedTower) -> bool:
    """Whether the fingerprints of a tower, which are names of folders, are SHA-256."""
    names = (planned.tower.fingerprint, planned.tower.backbone or "0" * 64)
    return all(re.match(_KEY, name) for name in names)


def _has_items(planned: PlannedTower, count: int) -> bool:
    """Whether a tower has all items of a plan with `count` items, or some, each once."""
    items = planned.items
    return items is None or (0 < len(items) == len({*items}) and max(items) < count)


class IndexEntry(msgspec.Struct, kw_only=True, frozen=True):
    """A plan in the index: its file, the digest of its content, what it is of, and the files of the shards it gives."""

    file: Annotated[str, Meta(pattern=r"^[0-9]{6,}\.json$")]
    digest: Key
    models: list[str]
    tower: TowerName
    items: int
    shards: list[str]


class Index(msgspec.Struct, kw_only=True, frozen=True):
    """The index of a folder of plans: the id and the folder of the store, and the plans in order."""

    store: str
    folder: str
    plans: list[IndexEntry]


class _Envelope(msgspec.Struct, kw_only=True, frozen=True):
    """What every file of the format has; `digest` is the SHA-256 of the bytes of `content`."""

    format: str
    version: Annotated[int, Meta(ge=1)]
    digest: Key
    content: msgspec.Raw


def plan_of(group: PlanGroup, settings: Mapping[str, WorkerSettings], *, store: str, root: Path) -> Plan:
    """The plan file of a plan group; `settings` by fingerprint, `root` is the folder of the store `store`."""
    first = group.plans[0]
    storage = settings[first.tower.fingerprint].storage
    contents = [image.content for image in group.image_files] or first.contents
    number = {content: item for item, content in enumerate(contents)}
    return Plan(
        store=store,
        folder=str(root),
        shards_url=storage.url if isinstance(storage, ObjectStorage) else None,
        memory=settings[first.tower.fingerprint].memory,
        source=first.source,
        towers=[
            PlannedTower(
                model=settings[plan.tower.fingerprint].model,
                tower=plan.tower,
                store_dtype=settings[plan.tower.fingerprint].store_dtype,
                items=None if plan.contents == contents else [number[content] for content in plan.contents],
                probes=dict(settings[plan.tower.fingerprint].probes),
            )
            for plan in group.plans
        ],
        contents=contents,
        sources=[image.path for image in group.image_files] or first.sources,
        sizes=[image.size for image in group.image_files],
        rows=first.rows,
        shards={
            file: FeatureShard(**{name: getattr(shard, name) for name in FeatureShard.__struct_fields__})
            for file, shard in first.shards.items()
        },
    )


class EncodedContent(NamedTuple):
    """The content of a file of the format, as JSON, and its digest."""

    content: bytes
    digest: str


def encode_content(content: msgspec.Struct) -> EncodedContent:
    """The content of a file as it is written."""
    encoded = msgspec.json.encode(content)
    return EncodedContent(encoded, hashlib.sha256(encoded).hexdigest())


def write_file(path: Path, kind: str, content: msgspec.Struct) -> None:
    """Write a file of the format as a whole: it is complete, or absent. `kind` is "plan-index" or "manifest".

    Raises:
        PlanError: it cannot be written.
    """
    write_encoded(path, kind, encode_content(content), whole=True)


def write_encoded(path: Path, kind: str, encoded: EncodedContent, *, whole: bool) -> None:
    """Write a file of the format. Unless `whole`, a killed process can leave a part of it, which its digest reveals.

    Raises:
        PlanError: it cannot be written.
    """
    envelope = _Envelope(
        format=f"clipstore-{kind}",
        version=FORMAT_VERSION,
        digest=encoded.digest,
        content=msgspec.Raw(encoded.content),
    )
    write = write_whole if whole else Path.write_bytes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, msgspec.json.encode(envelope) + b"\n")
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise PlanError(message) from error


def read_file(path: Path, kind: str, content: type[Content]) -> tuple[Content, str]:
    """A file of the format, and its digest.

    Raises:
        PlanError: it is missing, damaged, of another kind, or of another version of the format.
    """
    try:
        envelope = decode_json(read_regular(path), _Envelope)
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}; 'clipstore plan --out FOLDER' writes plans"
        raise PlanError(message) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"{path} is not a file that 'clipstore plan' or 'clipstore encode' wrote ({error}): plan again"
        raise PlanError(message) from error
    if envelope.format != f"clipstore-{kind}":
        message = f"{path} is a {envelope.format} file, not a clipstore-{kind}: name the folder of the plans"
        raise PlanError(message)
    if envelope.version != FORMAT_VERSION:
        newer = envelope.version > FORMAT_VERSION
        remedy = "install a later clipstore" if newer else "plan again with 'clipstore plan'"
        message = f"{path} has version {envelope.version} of the format; this clipstore has {FORMAT_VERSION}: {remedy}"
        raise PlanError(message)
    if hashlib.sha256(bytes(envelope.content)).hexdigest() != envelope.digest:
        message = f"{path} does not match its digest, so it was changed or damaged: plan again with 'clipstore plan'"
        raise PlanError(message)
    try:
        return decode_json(envelope.content, content), envelope.digest
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"{path} does not have the documented content ({error}): plan again with 'clipstore plan'"
        raise PlanError(message) from error


class StoreIdentity(msgspec.Struct):
    """Of the settings of a store, its id and the URL of its shards (see `clipstore.store.settings`)."""

    id: str
    shards: str | None = None


def read_store(root: Path) -> StoreIdentity | None:
    """The store in a folder, by its settings; None: there is none.

    Raises:
        PlanError: they are damaged.
    """
    try:
        return decode_json(read_regular(root / "store.json"), StoreIdentity)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"the settings of the store {root} cannot be read ({error}): restore a copy of store.json"
        raise PlanError(message) from error
