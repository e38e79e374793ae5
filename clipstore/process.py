"""Settings of the whole process, which only the command line and worker processes apply, and its peak memory."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import warnings
from pathlib import Path

# Parameters of mallopt(3) in the GNU C library. Blocks up to the largest threshold that it allows come from the heap,
# and up to a gigabyte of freed heap stays with the process.
_TRIM_THRESHOLD, _RETAINED_BYTES = -1, 2**30
_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK = -3, 32 * 2**20
_ARENA_MAX = -8  # the most arenas; by default eight for each core


def retain_freed_memory() -> None:
    """Let the C library reuse freed memory, for processes that run a model on a CPU.

    By default it returns a block of a batch's size to the system when it is freed, and the system clears every page of
    the next one: a fifth of the time of a batch of captions. C libraries without mallopt are left as they are.

    An arena keeps what it retains when its threads have ended. So there are at most as many arenas as cores, and Arrow
    allocates with malloc, too, not with an allocator of its own: call this before pyarrow is imported.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_TRIM_THRESHOLD, _RETAINED_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK)
        mallopt(_ARENA_MAX, len(os.sched_getaffinity(0)))
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # read when pyarrow is imported


def ignore_image_warnings() -> None:
    """Ignore Pillow's warnings on image files: clipstore refuses images that are too large and reports damaged ones.

    Other warnings are about metadata, such as damaged EXIF data: the image is used as it is stored.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.", category=RuntimeWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.", category=UserWarning)


def peak_memory() -> int:
    """The peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage includes the peak of the process that forked this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
