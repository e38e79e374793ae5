"""Settings of the whole process: the command line and worker processes apply them at their start, nothing else does."""

from __future__ import annotations

import ctypes
import warnings

# Parameters of mallopt(3) in the GNU C library. Blocks up to the largest threshold that it allows come from the heap,
# and up to a gigabyte of freed heap stays with the process.
_TRIM_THRESHOLD, _RETAINED_BYTES = -1, 2**30
_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK = -3, 32 * 2**20


def retain_freed_memory() -> None:
    """Let the C library reuse freed memory, for processes that run a model on a CPU.

    By default it returns a block of a batch's size to the system when it is freed, and the system clears every page of
    the next one: a fifth of the time of a batch of captions. C libraries without mallopt are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_TRIM_THRESHOLD, _RETAINED_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK)


def ignore_image_warnings() -> None:
    """Ignore Pillow's warnings on image files: clipstore refuses images that are too large and reports damaged ones.

    Damaged EXIF data mean that the image is used as it is stored.
    """
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
    warnings.filterwarnings("ignore", message="(Possibly c|C)orrupt EXIF data", category=UserWarning)
