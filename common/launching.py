"""Start a job: `launch` is what scripts call, and the command `altclip`.

This module imports neither torch nor transformers, so that a wrong flag is refused at once, and help printed.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NoReturn, get_type_hints

from .command_line import FlagParser, read_command_line
from .errors import InputError
from .flags import tabled_parser
from .processes import launched_processes, warn_if_launched_alone


def launch(job: str, *, one_process: bool = False, refused: int = 1) -> None:
    """Run a job's `main` on this process's command line, and leave the process group that it joined.

    An `InputError` ends the process with one line, even if it quotes several lines of a library's message. So
    does a file that cannot be written, whichever library was writing it.

    Args:
        job: a module, such as `training.jobs.stage1`. The types of its `main`'s parameters are the
            dataclasses that flags fill, see `common.recipe.parse`.
        one_process: refuse to run in several processes, each of which would do the whole work and write the
            same files.
        refused: exit status of a command line or recipe that is wrong, so that nothing has begun.
    """
    _print_all_letters()
    warn_if_launched_alone()
    with _errors_in_one_line(status=refused):
        if one_process and launched_processes() > 1:
            raise InputError(
                f"{launched_processes()} processes were started, and this script runs in one: start it with "
                "`python`"
            )
        # Most mistakes are found in the table of flags, before the job's libraries are imported for seconds.
        parser = tabled_parser(job)
        if parser is not None:
            read_command_line(parser, sys.argv[1:])
        main = _main_of(job)
        arguments = _parse(main)
    with _errors_in_one_line(status=1):
        main(*arguments)
    _leave_process_group()


def flag_parser(job: str) -> FlagParser:
    """Return the parser of a job's flags, without its libraries where the table of flags holds."""
    parser = tabled_parser(job)
    if parser is None:
        from .recipe import DataclassParser

        parser = DataclassParser(*argument_types(_main_of(job)))
    return parser


def argument_types(main: Callable) -> list[type]:
    """Return the dataclasses that a job's `main` takes, by the types of its parameters."""
    return [hint for name, hint in get_type_hints(main).items() if name != "return"]


def _main_of(job: str) -> Callable:
    """Import the module of a job, with the libraries that it needs."""
    return import_module(f"altclip.{job}").main


def _parse(main: Callable) -> tuple:
    """Fill the dataclasses that `main` takes from the command line."""
    from .recipe import parse  # imports torch

    return parse(*argument_types(main))


@contextmanager
def _errors_in_one_line(status: int) -> Iterator[None]:
    """End the process with one line and an exit status where an error is the user's to fix."""
    try:
        yield
    except InputError as error:
        _exit_with(str(error), status)
    except Exception as error:
        from .output import why_not_written  # imports torch

        reason = why_not_written(error)
        if reason is None:
            raise
        _exit_with(reason, status)


def _exit_with(message: str, status: int) -> NoReturn:
    """End the process with one line and an exit status."""
    script = Path(sys.argv[0])
    # `python -m training.miniature` is known by the name of its package.
    name = script.parent.name if script.name == "__main__.py" else script.name
    line = f"{name}: error: {' '.join(message.split())}"
    if status == 1:
        # Python prints it at the very end, behind the last state of progress bars.
        sys.exit(line)
    print(line, file=sys.stderr)
    sys.exit(status)


def _leave_process_group() -> None:
    """Leave the process group, if the job has joined one.

    Threads of the group may still hold tensors. One that returns them while Python ends is interrupted, which
    aborts the process.
    """
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _print_all_letters() -> None:
    """Print letters that standard output cannot encode as `\\u4f60`, where they would raise an error.

    An example is output under `PYTHONIOENCODING=ascii`.
    """
    sys.stdout.reconfigure(errors="backslashreplace")


__all__ = ["argument_types", "flag_parser", "launch"]
