"""Locks that threads share, and that a fork leaves free."""

import os
from threading import Lock


def lock_of_threads() -> Lock:
    """Make a lock that no process inherits closed.

    A process that is forked while another thread holds a lock, as workers of a data loader are, would wait for it for ever: that
    thread does not exist there. A fork takes the lock first, and what it guards is whole in the new process.
    """
    lock = Lock()
    if os.name == "posix":  # Windows has no forks
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


__all__ = ["lock_of_threads"]
