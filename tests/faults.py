"""System calls that fail on request, in place of the module ``os`` in a module that writes."""

import os
from pathlib import Path


class FailingCalls:
    """The module ``os``, of which calls that write fail with the error that a function returns.

    Args:
        fault: Returns, for the name of a call and the file it is about, the number of an error, or None.
    """

    CALLS = ("open", "write", "pwrite", "ftruncate", "fsync", "replace", "rename")

    def __init__(self, fault):
        self.fault = fault
        self.path = ""

    def __getattr__(self, name):
        call = getattr(os, name)
        if name not in self.CALLS:
            return call

        def checked(first, *arguments):
            if name in {"open", "rename"}:
                self.path = Path(first)  # of the calls that follow
            number = self.fault(name, self.path)
            if number is not None:
                raise OSError(number, os.strerror(number))
            return call(first, *arguments)

        return checked
