"""Figures of the log that are reported to tensorboard and trackio.

Both bring protobuf, which the tests' own environment has to do without.
"""

import json

import pytest

from .environments import build_environment, extra, run_in

READ = """
import json, sys
import trackio
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trackio.sqlite_storage import SQLiteStorage

in_tensorboard = []
events = EventAccumulator(sys.argv[1]).Reload()
for tag in events.Tags()["scalars"]:
    in_tensorboard += [(event.step, tag, event.value) for event in events.Scalars(tag)]

in_trackio = []
[run] = trackio.Api().runs("huggingface")
for row in SQLiteStorage.get_logs(run.project, run.name):
    for tag, value in row.items():
        if tag.startswith("train/"):
            in_trackio.append((row["train/global_step"], tag, value))
print(json.dumps([in_tensorboard, in_trackio]))
"""


@pytest.mark.slow
def test_trackers_get_the_figures_of_the_log(miniature, tmp_path):
    """Compare each figure of each step, from a run of stage 1 without a network."""
    python = build_environment(tmp_path / "venv", *extra("logging"))
    out = tmp_path / "out"
    in_trackio = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    command = ["training/run_stage1.py", "training/recipes/miniature/stage1.yaml"]
    command += ["--teacher_name_or_path", miniature / "clip"]
    command += ["--text_encoder_name_or_path", miniature / "text_encoder"]
    command += ["--dataset", miniature / "dataset", "--output_dir", out]
    command += ["--max_steps", "6", "--logging_steps", "2", "--per_device_train_batch_size", "16"]
    command += ["--report_to", "tensorboard", "trackio"]
    process = run_in(python, *command, **in_trackio)
    assert process.returncode == 0, process.stderr[-4000:]
    [events] = (out / "runs").iterdir()
    process = run_in(python, "-c", READ, events, **in_trackio)
    assert process.returncode == 0, process.stderr[-4000:]

    expected = {}
    for entry in json.loads((out / "trainer_state.json").read_text("utf-8"))["log_history"]:
        if "loss" in entry:
            for name in ("loss", "spread", "nearest", "padding"):
                expected[entry["step"], f"train/{name}"] = entry[name]
    assert len(expected) == 3 * 4
    assert len(set(expected.values())) > 6
    for tracked in json.loads(process.stdout.splitlines()[-1]):
        found = {(step, tag): value for step, tag, value in tracked if (step, tag) in expected}
        assert found == pytest.approx(expected, rel=1e-6)  # tensorboard keeps them in float32
