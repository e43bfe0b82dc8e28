"""Every job that writes may be killed at any of its writes, or find the disk full there.

The next run ends in the same bytes: nothing is lost, doubled or left behind. `make soak` does both many times
with each job.
"""

import random
import time

import pytest
from pandas import DataFrame

from .killing import draw_full_disk, draw_kills, stop_and_go_on
from .running import Stop, run_uninterrupted
from .trees import contents, differences

# A dozen kills in the jobs that differ most in how they write.
QUICK = {"stage 1": 3, "retrieval": 3, "card": 2, "translation": 2, "cache": 2}
N_KILLS = 16  # of each job, at least; 224 of all
N_FULL = 6
SEED = 16


def stop_many(jobs, name, draw, n_stops, tell):
    """Stop a job until it was stopped `n_stops` times; return a row of the table."""
    all_jobs, world = jobs
    start = time.monotonic()
    whole = run_uninterrupted(all_jobs[name], world)
    chance = random.Random(f"{SEED} {name}")
    outcomes = []
    # A disk may be full where a job has nothing left to write.
    while sum(outcome.n_stopped for outcome in outcomes) < n_stops and len(outcomes) < 5 * n_stops:
        stops = draw(chance, whole.n_writes)
        outcome = stop_and_go_on(all_jobs[name], world, whole, stops)
        outcomes.append(outcome)
        if outcome.faults:
            tell(f"{name}, {stops}: {'; '.join(outcome.faults)}")

    n_faulty = sum(bool(outcome.faults) for outcome in outcomes)
    return {
        "job": name,
        "writes": whole.n_writes,
        "stops": sum(outcome.n_stopped for outcome in outcomes),
        "runs": len(outcomes),
        "equal": len(outcomes) - n_faulty,
        "faulty": n_faulty,
        "seconds": round(time.monotonic() - start),
    }


@pytest.mark.parametrize("name", QUICK)
def test_a_killed_job_ends_in_the_same_bytes(jobs, tell, name):
    row = stop_many(jobs, name, draw_kills, QUICK[name], tell)
    assert row["stops"] >= QUICK[name]
    assert row["faulty"] == 0


def test_a_run_killed_after_its_last_checkpoint_trains_no_step_more(jobs):
    """The Trainer would train a fifth step of four, and save the model after it."""
    all_jobs, world = jobs
    whole = run_uninterrupted(all_jobs["stage 0"], world)
    outcome = stop_and_go_on(all_jobs["stage 0"], world, whole, [Stop(whole.n_writes)])
    assert outcome.n_stopped == 1
    assert not outcome.faults


@pytest.mark.soak
@pytest.mark.parametrize("draw,n_stops", [(draw_kills, N_KILLS), (draw_full_disk, N_FULL)])
def test_many_stops_of_every_job_end_in_the_same_bytes(jobs, tell, draw, n_stops):
    rows = [stop_many(jobs, name, draw, n_stops, tell) for name in jobs[0]]
    table = DataFrame(rows).set_index("job")
    table.loc["all"] = table.sum()
    tell(f"\n{draw.__name__}\n{table.to_string()}")
    assert table.loc["all", "stops"] >= n_stops * len(rows) / 2
    assert table.loc["all", "faulty"] == 0


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
