import platform

from ccpml.allocator import keep_freed_memory


def test_glibc_takes_the_parameters():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
