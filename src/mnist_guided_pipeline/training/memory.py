"""Memory that was freed is kept and used again."""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
_LARGEST_KEPT = 2**25  # bytes of one block, the most that the library takes
_KEPT = 2**26  # bytes at the end of the heap


def keep_freed_memory() -> None:
    """Ask the C library not to give freed memory back to the system, for as long as this process lives.

    Networks allocate and free the same few megabytes in every step. The GNU C library gives blocks of that size back at
    once, and the system clears their pages when it hands them out again, which takes up to a third of the time of a
    small convolutional network on a CPU. Other C libraries, and settings of the user's own (environment variables
    ``MALLOC_*``), are left alone.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
