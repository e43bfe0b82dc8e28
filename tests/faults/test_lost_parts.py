"""A process, a worker or the memory is lost in a batch; clocks jump; two runs build one cache at a time."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ..conftest import ROOT
from ..processes import run_script
from .running import Stop, run_job, run_uninterrupted
from .trees import contents, differences

HERE = Path(__file__).parent
YEAR = 365 * 24 * 60 * 60  # seconds


def failing(job, how, batch):
    return replace(job, words=[HERE / "fail_in_batch.py", how, batch, *job.words])


IN_SOAK = pytest.mark.soak
# A worker makes the fifth batch when the second step and its checkpoint are done, and before the fourth step.
ONE_AHEAD = ["--dataloader_num_workers", "1", "--dataloader_prefetch_factor", "1"]


@pytest.mark.parametrize(
    "how,batch,flags",
    [
        ("worker", 5, ONE_AHEAD),
        pytest.param("memory", 4, [], marks=IN_SOAK),
        pytest.param("kill", 4, [], marks=IN_SOAK),
    ],
)
def test_what_fails_in_a_batch_is_resumed_to_the_same_bytes(jobs, how, batch, flags):
    all_jobs, world = jobs
    job = all_jobs["stage 0"]
    job = replace(job, words=[*job.words, *flags])
    whole = run_uninterrupted(job, world)
    shutil.rmtree(world)
    run = run_job(failing(job, how, batch), world)
    assert run.code != 0
    assert (world / "out/checkpoint-2").is_dir(), run.stderr[-3000:]
    assert not (world / "out/checkpoint-4").is_dir()
    run = run_job(job, world)
    assert run.code == 0, run.stderr[-3000:]
    assert not differences(contents(world), whole.files)


def test_a_lost_process_ends_the_other_one(jobs):
    """The first of two processes ends by itself: were it left to wait, the test would kill it at last."""
    all_jobs, world = jobs
    job = failing(all_jobs["stage 0"], "lost", 3)
    shutil.rmtree(world, ignore_errors=True)
    words = [str(word) for word in [*job.words, "--ddp_timeout", "60"]]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = run_script(words, environment, processes=2)
    assert process.returncode == 1, process.stderr[-3000:]


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_that_jumps_changes_no_cache_and_leaves_nothing_behind(jobs, jump):
    all_jobs, world = jobs
    job = all_jobs["cache"]
    whole = run_uninterrupted(job, world)
    shutil.rmtree(world)
    # Half of a part lies in a temporary file.
    assert run_job(job, world, Stop(whole.n_writes // 2, 10)).was_killed
    assert list((world / "cache").glob("*.tmp"))
    run = run_job(replace(job, words=[HERE / "at_another_time.py", jump, *job.words]), world)
    assert run.code == 0, run.stderr[-3000:]
    assert not differences(contents(world), whole.files)


@pytest.mark.soak
@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_that_jumps_loses_no_checkpoint(jobs, jump):
    """Stage 2 keeps one checkpoint alone: the last, whatever time its files bear."""
    all_jobs, world = jobs
    whole = run_uninterrupted(all_jobs["stage 2"], world)
    shutil.rmtree(world)
    assert run_job(failing(all_jobs["stage 2"], "kill", 4), world).was_killed
    checkpoint = world / "out/checkpoint-2"
    for path in [checkpoint, *checkpoint.iterdir()]:
        seconds = path.stat().st_mtime + jump
        os.utime(path, (seconds, seconds))
    run = run_job(all_jobs["stage 2"], world)
    assert run.code == 0, run.stderr[-3000:]
    assert not differences(contents(world), whole.files)


def test_two_runs_build_one_cache_at_a_time(jobs):
    all_jobs, world = jobs
    whole = run_uninterrupted(all_jobs["cache"], world)
    shutil.rmtree(world)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [str(word) for word in all_jobs["cache"].words]
    with ThreadPoolExecutor(2) as pool:
        processes = list(pool.map(lambda _: run_script(words, environment), range(2)))
    for process in processes:
        assert process.returncode == 0, process.stderr[-3000:]
    assert not differences(contents(world), whole.files)
