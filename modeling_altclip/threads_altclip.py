"""Locks that threads share, and that a fork leaves free."""

import os
from threading import Lock


def lock_of_threads() -> Lock:
    """Return a lock that is free in a forked process.

    Workers of a data loader are forked. If another thread holds a lock at that moment, the new process would
    wait for it for ever: that thread does not exist there. A fork therefore takes the lock first, so that
    what it guards is whole in the new process too.
    """
    lock = Lock()
    if os.name == "posix":  # Windows has no forks
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


__all__ = ["lock_of_threads"]
