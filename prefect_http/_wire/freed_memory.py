"""Let the process keep the memory of one piece of a body for the next one.

glibc returns the free end of its heap to the system once it is larger than twice the largest block that was mapped and
freed so far: 256 KiB at first (mallopt(3), M_MMAP_THRESHOLD). The pieces of a large body are as large. So the memory of
most of them was returned, and came back with a page fault for each 4 KiB: two thirds of the processor time of a chunked
response on trio, and more or less of it in each process, depending on what lay on the heap.
"""

from __future__ import annotations

import functools

# Several pieces of 256 KiB that are freed together: as received, decrypted, and taken out of their chunks or frames.
_BLOCK = 1024 * 1024


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 2 MiB that is free. With another allocator, or if the user has tuned it, nothing changes."""
    bytes(_BLOCK)  # which is freed at once, without having been touched
