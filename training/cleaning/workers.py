"""Do tasks in this process, or in several that end with it."""

import gc
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from threading import Thread

from tqdm.auto import tqdm

from common.errors import InputError


class Workers:
    """Processes that do tasks side by side; with one, tasks are done here.

    Use it as a context, which ends the processes.
    """

    def __init__(self, processes: int):
        self._pool = None
        if processes > 1:
            # Processes that are forked from one that has imported the libraries start at once.
            methods = multiprocessing.get_all_start_methods()
            context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
            if context.get_start_method() == "forkserver":
                context.set_forkserver_preload([f"{__package__}.finishing"])
            self._pool = ProcessPoolExecutor(processes, context, initializer=_begin)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, function: Callable[..., None], tasks: list[tuple], description: str) -> float:
        """Call a function with the arguments of each task, in any order, and wait for all.

        Returns:
            the seconds that this took.

        Raises:
            InputError: a process was killed, as the system does where memory is short; or what the function
                raises first.
        """
        start = time.monotonic()
        with tqdm(total=len(tasks), desc=description, unit="part") as bar:
            if self._pool is None:
                for arguments in tasks:
                    function(*arguments)
                    bar.update()
                return time.monotonic() - start
            futures = [self._pool.submit(function, *arguments) for arguments in tasks]
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.update()
            except BrokenProcessPool as error:
                raise InputError(
                    f"one of the processes was killed while {description.lower()}, perhaps for want of "
                    "memory: start again to resume, with fewer processes or part_rows"
                ) from error
        return time.monotonic() - start


def _begin() -> None:
    """Prepare a process: it ends when the one that started it has ended, however that came about."""
    # The libraries' million objects, which stay, need not be looked through for garbage again and again.
    gc.freeze()
    parent = multiprocessing.parent_process()

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=end, daemon=True).start()


__all__ = ["Workers"]
