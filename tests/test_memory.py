"""In a process of its own: the setting is the whole process's."""

import subprocess
import sys

PROGRAM = """
import ctypes, resource, sys
from dataeff.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size = 40 * 2**20
for _ in range(20):
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_freed_block_is_used_again_without_page_faults() -> None:
    """20 blocks of 10,240 pages: as it is every one is faulted in anew, kept only the first is."""
    assert page_faults("as it is") > 200_000
    assert page_faults("keep") < 40_000
