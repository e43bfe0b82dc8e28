"""A bit flipped, or an end cut off, anywhere in what we write is noticed or does not matter."""

import random
import shutil
from collections import Counter

import pytest
from pandas import DataFrame

from .damage import Damage, apply_damage, draw_damage, read_damaged
from .jobs import Job, reading_jobs
from .running import run_job, run_uninterrupted

SEED = 16
# Flipped bits and cut ends of each; 300 and 60 of all.
N_BITS = {"checkpoint": 100, "cache": 70, "finished model": 70, "results": 60}
N_CUTS = 15
# The folder of each that is damaged.
BELOW = {"checkpoint": "out/checkpoint-2", "cache": "cache", "finished model": "read", "results": "read"}


@pytest.fixture(scope="module")
def states(jobs, inputs, tmp_path_factory):
    """Return the folders that the reading jobs begin with, and the jobs; beside each is what they end in."""
    all_jobs, world = jobs
    folder = tmp_path_factory.mktemp("states")
    reading = reading_jobs(all_jobs, inputs, world)

    # A run that was killed between its two checkpoints.
    run_uninterrupted(reading["checkpoint"], world)
    shutil.rmtree(world / "out/checkpoint-4")
    (world / "out/model.safetensors").unlink()
    # Whatever is left of the checkpoint, it is for the job itself to find the damage.
    reading["checkpoint"] = Job([*reading["checkpoint"].words, "--resume"])
    keep_state(reading["checkpoint"], world, folder / "checkpoint")

    run_uninterrupted(reading["cache"], world)
    keep_state(reading["cache"], world, folder / "cache")

    run_uninterrupted(all_jobs["card"], world)
    (world / "out").rename(world / "read")
    keep_state(reading["finished model"], world, folder / "finished model")

    shutil.rmtree(world)
    shutil.copytree(inputs / "results", world / "read")
    keep_state(reading["results"], world, folder / "results")
    return reading, folder


def keep_state(job, world, state):
    """Copy `world` to `state`, and what the job makes of it to `state.whole`."""
    shutil.copytree(world, state)
    run = run_job(job, world)
    assert run.code == 0, run.stderr[-3000:]
    shutil.copytree(world, state.with_suffix(".whole"))


def damage_many(states, world, name, draws, tell):
    """Damage what is called `name` once for each of `draws`; return how often it was noticed, and so on."""
    reading, folder = states
    chance = random.Random(f"{SEED} {name}")
    counts = Counter()
    for cuts in draws:
        damage = draw_damage(chance, folder / name / BELOW[name], cuts=cuts)
        end, why = read_damaged(reading[name], world, folder / name, BELOW[name], damage)
        counts[end] += 1
        tell(f"{end}: {name}, {damage.file} at {damage.place}, bit {damage.bit}: {why[:200]}")
    return counts


@pytest.mark.soak
def test_damage_anywhere_is_noticed_or_harmless(jobs, states, tell):
    _, world = jobs
    rows = []
    for name, n_bits in N_BITS.items():
        draws = [False] * n_bits + [True] * N_CUTS
        rows.append({"damaged": name} | damage_many(states, world, name, draws, tell))
    table = DataFrame(rows).set_index("damaged").fillna(0).astype(int)
    table.loc["all"] = table.sum()
    tell(f"\n{table.to_string()}")
    assert set(table.columns) <= {"noticed", "harmless"}


@pytest.mark.parametrize("bit,expected", [(0, b"\x01b"), (7, b"\x80b"), (None, b"")])
def test_damages_change_one_place(tmp_path, bit, expected):
    (tmp_path / "file").write_bytes(b"\x00b")
    apply_damage(Damage("file", 0, bit), tmp_path)
    assert (tmp_path / "file").read_bytes() == expected


def test_damages_are_judged_by_what_the_job_makes_of_them(jobs, states):
    """Among them one that no check may miss: a file that is no file of its kind any more."""
    reading, folder = states
    _, world = jobs

    def judge(name, damage):
        return read_damaged(reading[name], world, folder / name, BELOW[name], damage)

    (result,) = (folder / "results/read").rglob("miniature-pairs.zh.json")
    result = result.relative_to(folder / "results/read").as_posix()
    end, line = judge("results", Damage(result, 10, None))
    assert end == "noticed"
    assert result in line
    # A card says nothing to a model.
    assert judge("finished model", Damage("README.md", 50, 0)) == ("harmless", "")
