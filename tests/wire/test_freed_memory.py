"""keep_freed_memory(): the pieces of large bodies reuse memory, counted in page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from prefect_http import HTTPTransport
from prefect_http._wire import freed_memory
from prefect_http._wire.freed_memory import keep_freed_memory

# In an interpreter that has imported next to nothing: a large file that was read changes what glibc keeps as well.
PROGRAM = """
import resource, runpy, sys

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        pieces = [b"x" * 2**18 for _ in range(3)]
        del pieces[:]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory = runpy.run_path(sys.argv[1])["keep_freed_memory"]
before = page_faults()
keep_freed_memory()
page_faults()
print(before, page_faults())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="only glibc returns memory so eagerly"
)
def test_page_faults() -> None:
    """Before, the system has to find new memory for most of 300 pieces, and after, for none."""
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, freed_memory.__file__]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    before, after = map(int, printed.split())
    assert before > 300
    assert after < 30


def test_transport_keeps_it() -> None:
    """The first transport of a process sees to it."""
    keep_freed_memory.cache_clear()
    HTTPTransport()
    assert keep_freed_memory.cache_info().currsize == 1
