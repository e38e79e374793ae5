"""The options of `clipstore embed`."""

from __future__ import annotations

from dataclasses import dataclass

from clipstore import choices
from clipstore.errors import OptionError
from clipstore.files import FileReader, read_image_file
from clipstore.progress import Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """What to embed, and how.

    Attributes:
        splits: names of splits; empty: the whole catalog.
        only: "images" or "captions"; None: both.
        memory: device memory for weights and batches, in bytes.
        devices: torch devices, each with a process of its own where there are several; empty: CUDA if available, else
            the CPU.
        ray: the address of a Ray cluster whose nodes encode, "auto" or host:port; None: this machine encodes.
        ray_cpus: CPUs of each worker on the cluster; None: a GPU each, or all CPUs of a node.
        compiled: run the model through torch.compile.
        retry_failed: try items again that failed in an earlier run.
        dry_run: estimate only.
        read: reads an image file, in place of the file system.
    """

    splits: tuple[str, ...] = ()
    only: choices.ItemKindChoice | None = None
    precision: choices.PrecisionChoice = "auto"
    store_dtype: choices.StoredTypeChoice = "float32"
    memory: int = choices.DEFAULT_MEMORY
    devices: tuple[str, ...] = ()
    ray: str | None = None
    ray_cpus: int | None = None
    compiled: bool = False
    retry_failed: bool = False
    dry_run: bool = False
    on_progress: Progress = no_progress
    read: FileReader = read_image_file

    def __post_init__(self) -> None:
        choices.check(self)
        if self.ray is None and self.ray_cpus is not None:
            raise OptionError("--ray-cpus is an option of --ray: add --ray auto or --ray HOST:PORT")
        if self.ray is not None and self.devices:
            message = "--ray and --device cannot be combined: the workers of a cluster use the GPUs of their nodes"
            raise OptionError(message)
        if self.ray is not None and self.dry_run:
            raise OptionError("--dry-run measures this machine and not a cluster: omit --ray")
