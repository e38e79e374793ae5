"""Encode plan files into shards and manifests, without the catalog. Any number of processes may do it at once.

A process skips plans that are complete, and postpones those that another process encodes: that process holds a lock on
the plan file, which the operating system releases however it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from clipstore.device import checked_device
from clipstore.errors import OptionError, PlanError
from clipstore.files import is_image_file
from clipstore.inference.encode import encode
from clipstore.inference.loading import Encoders, check_models, load_models
from clipstore.inference.manifests import complete_shards, is_complete, write_manifest
from clipstore.inference.plan_files import INDEX, Index, Plan, read_file, read_store
from clipstore.inference.settings import EncodeSettings
from clipstore.progress import Progress, no_progress
from clipstore.records import PlanGroup, TowerName
from clipstore.shards import Shard, Storage


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How plan files are encoded.

    Attributes:
        root: the folder of the store as this machine sees it; None: as in the plans.
        device: a torch device; None: CUDA if available, else the CPU.
    """

    root: Path | None = None
    device: str | None = None
    on_progress: Progress = no_progress


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """What became of a plan file.

    Attributes:
        encoded: whether this process encoded it; otherwise it was complete.
        items, failed, cut: items with a vector, items that failed, and texts that were truncated, over all towers.
    """

    plan: str
    models: list[str]
    tower: TowerName
    encoded: bool
    items: int = 0
    failed: int = 0
    cut: int = 0


def encode_plans(paths: Sequence[Path], options: EncodeOptions) -> Iterator[PlanResult]:
    """Encode plan files. Yields the result of each as it is complete, those of other processes' plans last.

    Raises:
        PlanError: a plan file is damaged or of another format, or this machine does not see the store or the images.
        ModelError: a model cannot be loaded, or differs from the one that was planned.
        ShardError: a shard cannot be written, or features cannot be read.
    """
    device = checked_device(options.device)
    queue = _Queue(paths, options)
    encoders: Encoders = {}
    try:
        while first := queue.next(wait=True):
            if isinstance(first, PlanResult):
                yield first
                continue
            try:
                settings = first.plan.settings(first.storage)
                encoding = load_models(settings, device, lambda _fingerprint: queue.count, loaded=encoders)
                check_models(settings, encoding)
            except BaseException:
                first.release()  # or another call of this process would wait for the lock forever
                raise
            yield from _encode(first, queue, encoding)
    finally:
        queue.close()


def select_plans(paths: Sequence[Path], *, task: int = 0, tasks: int = 1) -> list[Path]:
    """The plan files among some paths, of a folder all that its index names; of these each `tasks`-th from `task` on.

    Raises:
        PlanError: a folder has no index, or a plan file does not exist.
        OptionError: there are not as many tasks.
    """
    if not 0 <= task < tasks:
        message = f"--task {task} is not one of {tasks} tasks, which are numbered from 0: use --tasks N with more"
        raise OptionError(message)
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            index, _ = read_file(path / INDEX, "plan-index", Index)
            files += [path / entry.file for entry in index.plans]
        else:
            files.append(path)
    return files[task::tasks]


def _encode(first: _Task, queue: _Queue, encoding: dict[str, EncodeSettings]) -> Iterator[PlanResult]:
    """Encode a plan, and those that follow it in the queue as long as they are of the same towers."""
    running: deque[_Task] = deque()
    complete: list[PlanResult] = []

    def groups() -> Iterator[PlanGroup]:
        task: _Task | PlanResult | None = first
        while task:
            if isinstance(task, PlanResult):
                complete.append(task)
            elif {*task.plan.settings(task.storage)} != {*encoding}:
                queue.put_back(task)
                return
            else:
                running.append(task)
                yield task.group
            task = queue.next()

    try:
        for shards in encode(groups(), encoding):
            yield queue.complete(running.popleft(), shards, encoded=True)
        yield from complete
    finally:
        for task in running:
            task.release()


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A plan file that this process encodes; the lock on the open file `descriptor` is held until it has a manifest."""

    path: Path
    plan: Plan
    digest: str
    root: Path
    descriptor: int

    @property
    def storage(self) -> Storage:
        return self.plan.storage(self.root)

    @property
    def group(self) -> PlanGroup:
        return self.plan.group(self.storage)

    def release(self) -> None:
        os.close(self.descriptor)

    def check_texts_and_store(self) -> None:
        """Check that this machine sees the store with its shards in the planned place, and that texts are the items'.

        Raises:
            PlanError: it does not.
        """
        store = read_store(self.root)
        if store is None:  # also an empty folder, on which the store is not mounted
            message = (
                f"this machine does not see the store {self.root} of the plan {self.path}: mount it, or name its "
                "folder here with --store"
            )
            raise PlanError(message)
        if store.id != self.plan.store:
            message = f"the plan {self.path} is of another store than {self.root}: name its store with --store"
            raise PlanError(message)
        if store.shards != self.plan.shards_url:
            message = (
                f"the shards of the store {self.root} are in {store.shards or 'its folder'}, and in "
                f"{self.plan.shards_url or 'its folder'} by the plan {self.path}: plan again, into another folder"
            )
            raise PlanError(message)
        items = zip(self.plan.contents, self.plan.sources, strict=True) if self.plan.source == "texts" else ()
        if any(hashlib.sha256(text.encode()).hexdigest() != content for content, text in items):
            message = f"the texts of the plan {self.path} are not those of its content keys: plan again"
            raise PlanError(message)

    def check_images(self) -> None:
        """Check that this machine sees at least one of its image files.

        Raises:
            PlanError: it sees none.
            StorageError: the images are objects, and object storage cannot be used.
        """
        images = self.plan.sources if self.plan.source == "image_files" else []
        if images and not any(is_image_file(Path(image)) for image in images):
            message = (
                f"this machine sees none of the {len(images)} image files of the plan {self.path}, such as "
                f"{images[0]}: mount their folder under the same path"
            )
            raise PlanError(message)

    def result(self, shards: Iterable[Shard], *, encoded: bool) -> PlanResult:
        """The result of a plan with the shards that it gave."""
        vectors = [shard for shard in shards if shard.info.kind == "vectors"]
        return PlanResult(
            plan=self.path.name,
            models=[planned.model.name for planned in self.plan.towers],
            tower=self.plan.towers[0].tower.tower,
            encoded=encoded,
            items=sum(len(shard.contents) for shard in vectors),
            failed=sum(len(shard.failures) for shard in vectors),
            cut=sum(shard.info.cut for shard in vectors),
        )


class _Queue:
    """The plan files that are left, and then those that other processes were encoding when their turn came."""

    def __init__(self, paths: Sequence[Path], options: EncodeOptions) -> None:
        self._left, self._postponed, self._root = deque(paths), deque[Path](), options.root
        self._returned: _Task | None = None
        self._sees_images = False  # whether this machine sees images of a plan: then those that it misses have failed
        self._progress = _PlanProgress(options.on_progress, len(paths))
        self.count = self._progress.count_items

    def next(self, *, wait: bool = False) -> _Task | PlanResult | None:
        """The next plan, locked, or the result of one that is complete; None: there are none.

        With `wait`, which is for a process that holds no lock, the plans of other processes follow the others.
        """
        if self._returned:
            task, self._returned = self._returned, None
            return task
        while self._left:
            path = self._left.popleft()
            opened = self._open(path, wait=False)
            if opened:
                return opened
            self._postponed.append(path)
        return self._open(self._postponed.popleft(), wait=True) if wait and self._postponed else None

    def put_back(self, task: _Task) -> None:
        """Return a task, which is the next one."""
        self._returned = task

    def close(self) -> None:
        """Release a task that was returned and not taken again."""
        if self._returned:
            self._returned.release()

    def complete(self, task: _Task, shards: Sequence[Shard], *, encoded: bool) -> PlanResult:
        """Write the manifest of a plan whose shards are complete, and release it; its result."""
        write_manifest(task.path, task.digest, shards)
        task.release()
        self._progress.count_plan()
        return task.result(shards, encoded=encoded)

    def _open(self, path: Path, *, wait: bool) -> _Task | PlanResult | None:
        """A plan, locked, or the result of one that is complete; None: another process holds its lock."""
        descriptor = _lock(path, wait=wait)
        if descriptor is None:
            return None
        try:
            plan, digest = read_file(path, "plan", Plan)
            task = _Task(path=path, plan=plan, digest=digest, root=self._root or plan.root, descriptor=descriptor)
            task.check_texts_and_store()
            is_encoded = is_complete(path, digest, task.storage)
            shards = None if is_encoded else complete_shards(task.group, task.storage)
            if not is_encoded and shards is None and not self._sees_images:
                task.check_images()
                self._sees_images = plan.source == "image_files"
        except BaseException:
            os.close(descriptor)
            raise
        if is_encoded:
            task.release()
            self._progress.count_plan()
            return task.result([], encoded=False)
        return task if shards is None else self.complete(task, shards, encoded=False)


class _PlanProgress:
    """Reports the number of plans that are complete, and in its note the number of items that were encoded."""

    def __init__(self, on_progress: Progress, plans: int) -> None:
        self._on_progress, self._plans, self._lock = on_progress, plans, Lock()
        self._complete = self._items = 0

    def count_items(self, items: int) -> None:
        """Add items; several threads may call it."""
        with self._lock:
            self._items += items
            self._report()

    def count_plan(self) -> None:
        """Add a complete plan."""
        with self._lock:
            self._complete += 1
            self._report()

    def _report(self) -> None:
        self._on_progress("plans encoded", self._complete, self._plans, f"{self._items:,} items")


def _lock(path: Path, *, wait: bool) -> int | None:
    """The descriptor of a plan file with an exclusive lock; None: another process holds it, and `wait` is false.

    Raises:
        PlanError: the file cannot be opened for writing, which the lock needs on network file systems.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        message = f"cannot open the plan {path}: {error.strerror}; 'clipstore plan --out FOLDER' writes plans"
        raise PlanError(message) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
