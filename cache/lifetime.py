"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, how: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux to send this process a signal when the thread that started it ends.

    In the child, before exec or at its beginning. parent: the process that started it, in case that has ended already.
    how: SIGKILL for programs that may lose another signal.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)
    if os.getppid() != parent:
        os.kill(os.getpid(), how)
