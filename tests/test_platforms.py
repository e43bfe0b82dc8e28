"""What the packages need of the operating system: nothing that Windows lacks, but where it is said."""

import re
import subprocess
import sys

import pytest

from common.errors import InputError
from common.files.locks import holding

from .conftest import ROOT
from .test_layout import SOURCES

# What Windows lacks of Python's modules, and of the functions and numbers in `os` and `signal`.
_MODULES = "fcntl|grp|posix|pty|pwd|resource|syslog|termios|tty"
_OF_OS = (
    "fork|forkpty|killpg|setsid|getpgid|mkfifo|statvfs|chown|geteuid|getuid|O_TMPFILE|O_DIRECTORY|O_NOFOLLOW"
)
_OF_SIGNAL = "SIGKILL|SIGALRM|SIGHUP|SIGUSR1|alarm|setitimer"
POSIX = re.compile(
    rf"^ *(?:import|from) (?:{_MODULES})\b|\bos\.(?:{_OF_OS})\b|\bsignal\.(?:{_OF_SIGNAL})\b", re.M
)
# Files that need some of it, and why.
NEEDS_POSIX = {
    # CPU seconds of a process and its children, for comparisons of speed
    "benchmarks/speed/worker.py": ["import resource"],
    # img2dataset's own process, in an environment that `make download-env` makes
    "training/download/bounded_img2dataset.py": ["os.killpg", "signal.SIGKILL"],
}


def test_nothing_is_needed_that_windows_lacks():
    found = {}
    for path in SOURCES:
        if needs := POSIX.findall(path.read_text("utf-8")):
            found[path.relative_to(ROOT).as_posix()] = needs
    assert found == NEEDS_POSIX


@pytest.mark.parametrize("code", ["import fcntl", "    from resource import getrusage", "pid = os.fork()"])
def test_what_windows_lacks_is_found(code):
    assert POSIX.search(code)


HOLD = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])  # which lets go when it is collected
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_a_lock_is_freed_when_its_holder_is_killed(tmp_path):
    path = tmp_path / ".lock"
    other = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="^in use$"), holding(path, "in use"):
            pass
    finally:
        other.kill()
        other.communicate()
    for _ in range(2):  # its end frees it, and so does ours
        with holding(path, "in use"), pytest.raises(InputError), holding(path, "in use"):
            pass
