"""Looks which keys it can reach by its session keyring: none of whoever restored it."""
import ctypes
import errno
from asked import answer, call, expect, until_asked

SESSION = ctypes.c_long(-3)
SEARCH = ctypes.c_long(10)


def reaches(name):
    """Or what keyctl(2) says to that."""
    try:
        return call(250, SEARCH, SESSION, b"user", name, ctypes.c_long(0)) > 0
    except OSError as error:
        return errno.errorcode[error.errno]


before = reaches(b"of the caller")
until_asked()
expect("the key of the caller", before, reaches(b"of the caller"))
expect("before that", True, before in ("ENOKEY", "ENOSYS"))
answer()
