"""Run img2dataset in a process and an environment of its own.

It pins pandas < 3, webdataset < 0.3 and albumentations < 2, with which it cannot stand beside the libraries
that training needs.
"""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from tqdm.auto import tqdm

from common.errors import InputError
from common.files.locks import holding
from common.files.whole_files import write_text

from .addresses import ADDRESSES, Prepared
from .arguments import DownloadArguments

_VERSION = "1.47.0"
_LAUNCHER = Path(__file__).with_name("bounded_img2dataset.py")
_LOG = "img2dataset.log"
_TEMPORARY = "_tmp"  # img2dataset's own, which it removes when it is done
_ASKED = (
    "from importlib.metadata import PackageNotFoundError, version\n"
    "try:\n    print(version('img2dataset'))\nexcept PackageNotFoundError:\n    print('none')\n"
)
# X-Robots-Tag directives at which no picture is taken; img2dataset's own defaults.
_OPT_OUT = ["noai", "noimageai", "noindex", "noimageindex"]
# A small file may unpack to far more: OpenCV then decodes none of it.
_MOST_PIXELS = 2**26
_SECONDS_BETWEEN_LOOKS = 0.2


def find_python(environment: str) -> Path:
    """Return the python of the environment that has img2dataset.

    Raises:
        InputError: there is no such environment, or it has another version or none.
    """
    python = Path(environment, "bin/python").absolute()
    remedy = "make it by `make download-env`, or name another by --environment"
    if not python.is_file():
        raise InputError(f"environment {environment!r} has no bin/python: {remedy}")
    process = subprocess.run([python, "-I", "-c", _ASKED], capture_output=True, text=True)
    version = process.stdout.strip()
    if version != _VERSION:
        raise InputError(
            f"environment {environment!r} has img2dataset {version or 'that cannot be run'}, and "
            f"{_VERSION} is needed: {remedy}"
        )
    return python


def check_no_proxy() -> None:
    """Refuse a proxy, which would look up hosts in our stead, so that none could be refused.

    Raises:
        InputError: the environment names one.
    """
    proxies = urllib.request.getproxies()
    for scheme in ("http", "https", "all"):
        if scheme in proxies:
            raise InputError(
                f"the environment variable {scheme}_proxy names a proxy, through which hosts of this network "
                "could not be refused: unset it, and download where there is a direct connection"
            )


def alone_in(output_dir: str) -> AbstractContextManager[None]:
    """Keep other downloads out of the output folder.

    Raises:
        InputError: another one is running there.
    """
    return holding(
        Path(output_dir, ".lock"),
        f"output_dir {output_dir!r} is in use by another download: wait for it, or give another",
    )


def download(arguments: DownloadArguments, python: Path, prepared: Prepared) -> None:
    """Download all addresses whose tars are not complete yet.

    Raises:
        InputError: img2dataset ended before all tars were complete.
    """
    output = Path(arguments.output_dir)
    temporary = output / _TEMPORARY
    temporary.mkdir(exist_ok=True)
    settings = output / ADDRESSES / "img2dataset_settings"
    write_text(settings, json.dumps(_settings(arguments), indent=1))
    command = [python, "-I", _LAUNCHER, "--settings", settings.absolute()]
    with (output / _LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end tells the process that this one has ended
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_variables(temporary.absolute()),
            start_new_session=True,
        )
        try:
            _watch(process, output, prepared)
        finally:
            process.stdin.close()
            process.wait()
    unfinished = prepared.shards - len(list(_finished_shards(output)))
    if process.returncode or unfinished:
        raise InputError(
            f"img2dataset left {unfinished} of {prepared.shards} tars incomplete: see {output / _LOG}, and "
            "repeat the command to resume"
        )


def _settings(arguments: DownloadArguments) -> dict[str, dict]:
    """Return the bounds and the arguments of `img2dataset.download`."""
    output = Path(arguments.output_dir).absolute()
    bounds = {
        "max_bytes": arguments.max_bytes,
        "max_seconds": arguments.max_seconds,
        "allow_hosts": arguments.allow_hosts or [],
    }
    options = {
        "url_list": str(output / ADDRESSES),
        "input_format": "parquet",
        "url_col": "url",
        "save_additional_columns": ["captions", "row"],
        "output_folder": str(output),
        "output_format": "webdataset",
        "number_sample_per_shard": arguments.shard_size,
        "image_size": arguments.image_size,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "min_image_size": arguments.min_image_size,
        "max_aspect_ratio": arguments.max_aspect_ratio,
        "extract_exif": False,
        "processes_count": arguments.processes,
        "thread_count": arguments.threads,
        "timeout": arguments.timeout,
        "retries": arguments.retries,
        "user_agent_token": arguments.user_agent_token,
        "disallowed_header_directives": _OPT_OUT,
    }
    return {"bounds": bounds, "img2dataset": options}


def _variables(temporary: Path) -> dict[str, str]:
    """Return the environment variables of the process.

    Args:
        temporary: where its libraries leave folders, which go with it.
    """
    own = {
        "NO_ALBUMENTATIONS_UPDATE": "1",  # it would ask PyPI for a newer version of itself
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(_MOST_PIXELS),
        "TMPDIR": str(temporary),
    }
    return os.environ | own


def _watch(process: subprocess.Popen, output: Path, prepared: Prepared) -> None:
    """Show the number of complete tars until the process ends."""
    with tqdm(total=prepared.shards, desc="Downloading", unit="tar") as bar:
        while True:
            bar.update(len(list(_finished_shards(output))) - bar.n)
            try:
                process.wait(_SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                continue
            bar.update(len(list(_finished_shards(output))) - bar.n)
            return


def _finished_shards(output: Path) -> Iterator[int]:
    """Yield the numbers of the tars that img2dataset has completed."""
    for path in output.glob("*_stats.json"):
        yield int(path.name.partition("_")[0])


__all__ = ["alone_in", "check_no_proxy", "download", "find_python"]
