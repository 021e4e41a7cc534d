"""The C library's allocator, told to keep what it has.

Glibc gives blocks of megabytes back to the system whenever they are freed. A learner on frames takes and frees such
blocks dozens of times an update, and the system clears their pages anew each time: about a sixth of an update's time.
"""

import ctypes
import sys

# From malloc.h.
_trim_threshold, _mmap_threshold = -1, -3
_kept_bytes = 512 << 20


def keep_freed_memory() -> None:
    """Let this process reuse large blocks that it freed; does nothing where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_mmap_threshold, _kept_bytes)
        mallopt(_trim_threshold, _kept_bytes)
