"""Every job that writes may be killed at any of its writes: the next run ends in the same bytes.

Nothing is lost, doubled or left behind. `make soak` kills each job sixteen times and more.
"""

import random
import time

import pytest
from pandas import DataFrame

from .killing import draw_stops, kill_and_go_on, run_uninterrupted
from .trees import contents, differences

# A dozen kills in the jobs that differ most in how they write.
QUICK = {"stage 1": 3, "retrieval": 3, "card": 2, "translation": 2, "cache": 2}
N_KILLS = 16  # of each job, at least; 224 of all
SEED = 16


def kill_many(jobs, world, name, n_kills, tell):
    """Kill a job until it was killed `n_kills` times; return a row of the table, and what was wrong."""
    start = time.monotonic()
    whole = run_uninterrupted(jobs[name], world)
    chance = random.Random(f"{SEED} {name}")
    outcomes = []
    while sum(outcome.n_kills for outcome in outcomes) < n_kills:
        stops = draw_stops(chance, whole.n_writes)
        outcome = kill_and_go_on(jobs[name], world, whole, stops)
        outcomes.append(outcome)
        if outcome.faults:
            tell(f"{name}, killed at {stops}: {'; '.join(outcome.faults)}")

    faulty = [outcome for outcome in outcomes if outcome.faults]
    row = {
        "job": name,
        "writes": whole.n_writes,
        "kills": sum(outcome.n_kills for outcome in outcomes),
        "runs": len(outcomes),
        "equal": len(outcomes) - len(faulty),
        "faulty": len(faulty),
        "seconds": round(time.monotonic() - start),
    }
    return row, faulty


@pytest.mark.parametrize("name", QUICK)
def test_a_killed_job_ends_in_the_same_bytes(jobs, tell, name):
    _, faulty = kill_many(*jobs, name, QUICK[name], tell)
    assert not faulty


def test_a_run_killed_after_its_last_checkpoint_trains_no_step_more(jobs):
    """The Trainer would train a fifth step of four, and save the model after it."""
    all_jobs, world = jobs
    whole = run_uninterrupted(all_jobs["stage 0"], world)
    outcome = kill_and_go_on(all_jobs["stage 0"], world, whole, [(whole.n_writes, -1)])
    assert outcome.n_kills == 1
    assert not outcome.faults


@pytest.mark.soak
def test_many_kills_of_every_job_end_in_the_same_bytes(jobs, tell):
    all_jobs, world = jobs
    rows = []
    faulty_jobs = []
    for name in all_jobs:
        row, faulty = kill_many(all_jobs, world, name, N_KILLS, tell)
        rows.append(row)
        if faulty:
            faulty_jobs.append(name)
    table = DataFrame(rows).set_index("job")
    table.loc["all"] = table.sum()
    tell(f"\n{table.to_string()}")
    assert not faulty_jobs


def test_two_runs_of_a_job_are_equal_and_a_changed_byte_is_not(jobs):
    """Otherwise no comparison above would say anything."""
    all_jobs, world = jobs
    whole = run_uninterrupted(all_jobs["stage 2"], world)
    again = run_uninterrupted(all_jobs["stage 2"], world)
    assert again == whole

    weights = world / "out/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (world / "out/left.tmp").touch()
    (world / "out/run.json").unlink()
    assert differences(contents(world), whole.files) == [
        "missing out/run.json",
        "left behind out/left.tmp",
        "other bytes in out/model.safetensors",
    ]
