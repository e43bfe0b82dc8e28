"""A road: a folder of recipes, done by one command that can be repeated at any time."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from common.errors import InputError
from common.files.contents import content_digest
from modeling_altclip.checksums_altclip import write_checksums
from training.jobs import road as road_job
from training.jobs.road import RoadArguments, main
from training.road import running, state
from training.road.running import Launch, run_road
from training.road.state import record_path
from training.road.steps import JOBS, choose_steps, read_road

from .conftest import ROOT
from .processes import TIMEOUT


def write_recipes(folder, **recipes):
    """Write a file for each recipe: `stage1="output_dir: x"` is stage1.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, text in recipes.items():
        (folder / f"{stem}.yaml").write_text(text, "utf-8")
    return folder


def test_steps_are_in_the_order_in_which_data_flow(tmp_path):
    recipes = {job: f"output_dir: out/{job}\nmax: [1, 2]\n" for job in reversed(JOBS)}
    folder = write_recipes(tmp_path / "road", sources="- {data: a.tsv}\n", **recipes)
    (folder / "notes.md").write_text("no recipe", "utf-8")
    (folder / "more.yaml").mkdir()
    steps = read_road(folder)
    assert [step.job for step in steps] == list(JOBS)
    assert list(JOBS)[0] == "translation"
    assert list(JOBS)[-1] == "report"
    assert steps[2].settings == {"output_dir": "out/clean", "max": ["1", "2"]}
    assert steps[2].lines == {"output_dir": 1, "max": 2}
    assert steps[2].output_dir == Path("out/clean")
    assert steps[2].words == ["-m", "altclip", "clean", str(folder / "clean.yaml")]
    assert steps[6].words == ["-m", "altclip", "train", "stage1", str(folder / "stage1.yaml")]
    assert [step.job for step in choose_steps(steps, ["stage1", "clean"])] == ["clean", "stage1"]
    assert choose_steps(steps, None) == steps
    with pytest.raises(InputError, match="^steps has 'stage3', and the road has translation download"):
        choose_steps(steps, ["stage1", "stage3"])


@pytest.mark.parametrize(
    "recipes,message",
    [
        ({}, "has no recipe: give a folder of recipes, each named after its job: translation, download,"),
        ({"sources": "- {data: a.tsv}"}, "has no recipe"),
        ({"stage_1": "output_dir: x"}, "stage_1.yaml' is named after no job: did you mean stage1.yaml?"),
        ({"mine": "output_dir: x"}, "mine.yaml' is named after no job: rename it after one of translation, "),
        (
            {"stage1": "output_dir: x", "stage2": "- {data: cc3m}"},
            "stage2.yaml' is a list of sources, and is named after a job: rename it",
        ),
        ({"stage1": "dataset: x"}, "stage1.yaml' has no output_dir, by which its step is known: add one"),
        ({"stage1": "output_dir: ''"}, "has no output_dir"),
        ({"stage1": "output_dir: [a]"}, "has no output_dir"),
        ({"stage1": "text"}, "must be a mapping"),
        ({"stage1": "output_dir: x", "stage2": "output_dir: ./x"}, "have the same output_dir 'x'"),
        ({"stage2": "output_dir: x", "report": "output_dir: x"}, "have the same output_dir"),
    ],
)
def test_what_is_no_road(tmp_path, recipes, message):
    with pytest.raises(InputError) as refusal:
        read_road(write_recipes(tmp_path / "road", **recipes))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_none_and_two_files_for_one_job(tmp_path):
    with pytest.raises(InputError, match="nowhere' does not exist: give a folder of recipes"):
        read_road(tmp_path / "nowhere")
    folder = write_recipes(tmp_path / "road", stage1="output_dir: x")
    (folder / "stage1.yml").write_text("output_dir: y", "utf-8")
    with pytest.raises(InputError, match="are for the same job: keep one of them"):
        read_road(folder)


def test_results_of_evaluations_may_lie_together(tmp_path):
    evaluations = {"retrieval": "output_dir: x", "zero_shot": "output_dir: x", "report": "output_dir: x"}
    assert len(read_road(write_recipes(tmp_path / "road", **evaluations))) == 3


@pytest.mark.parametrize("name", ["miniature", "altclip", "altclip_m9", "altclip_m18", "any_clip"])
def test_recipes_of_ours_are_roads(name):
    jobs = [step.job for step in read_road(ROOT / "training/recipes" / name)]
    assert {"stage1", "stage2"} <= set(jobs)


class World:
    """A road of jobs that write a few bytes, in place of processes that train.

    Attributes:
        calls: job and number of words of each command line that was started.
        dies_in: the job that ends with this exit status, when half of its work is done.
        changes: the settings of a finished training that are others in its recipe.
    """

    def __init__(self, folder):
        self.folder = folder
        self.recipes = folder / "recipes"
        self.calls = []
        self.dies_in = {}
        self.changes = {}

    def out(self, name):
        return self.folder / "out" / name

    def write(self, job, **settings):
        settings = {"output_dir": str(self.out(job))} | settings
        lines = [f"{name}: {json.dumps(value)}" for name, value in settings.items()]
        write_recipes(self.recipes, **{job: "\n".join(lines)})

    def start(self, command, variables):
        """Do what the job of a command line does, as far as a road sees it."""
        (recipe,) = [Path(word) for word in command if word.endswith(".yaml")]
        job = recipe.stem
        self.calls.append(job)
        settings = yaml.safe_load(recipe.read_text("utf-8"))
        output = Path(settings["output_dir"])
        output.mkdir(parents=True, exist_ok=True)
        content = json.dumps([settings, [self.content(name) for name in settings.get("reads", [])]])
        if job in self.dies_in:
            (output / "half").write_text(content)
            return self.dies_in.pop(job)
        if JOBS[job].is_training:
            (output / "config.json").write_text(content)
            write_checksums(output)
            record = {"settings": {}, "machine": {}, "finished": True}
            (output / "run.json").write_text(json.dumps(record))
        elif JOBS[job].finished_by:
            (output / "data").mkdir()
            (output / "data/rows.parquet").write_text(content)
        else:
            name = {"download": "00000.tar", "retrieval": "model/task.en.json"}.get(job, "page.md")
            (output / name).parent.mkdir(exist_ok=True)
            (output / name).write_text(content)
        return 0

    def content(self, name):
        files = [path for path in sorted(Path(name).rglob("*")) if path.is_file()]
        return [path.read_text("utf-8") for path in files if path.suffix != ".json" or "config" in path.name]

    def run(self, *chosen):
        """Run the road, and return the jobs that were started."""
        self.calls = []
        road = read_road(self.recipes)
        run_road(str(self.recipes), road, choose_steps(road, list(chosen) or None), Launch(), self.start)
        return self.calls


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A road of six steps, each of which reads what the one before made."""
    world = World(tmp_path)
    # The recipes of these jobs have no flags.
    monkeypatch.setattr(running, "check_recipes", lambda steps: None)
    monkeypatch.setattr(state, "_in_new_process", lambda function, step: world.changes)
    world.write("download", dataset="table.parquet")
    world.write("clean", reads=[str(world.out("download"))])
    world.write("stage1", reads=[str(world.out("clean"))], rate=1)
    world.write("stage2", reads=[str(world.out("stage1"))])
    world.write("retrieval", reads=[str(world.out("stage2"))])
    world.write("card", reads=[str(world.out("stage2")), str(world.out("retrieval"))])
    return world


ALL = ["download", "clean", "stage1", "stage2", "retrieval", "card"]


def test_a_road_is_done_once(world, capsys):
    assert world.run() == ALL
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"Step 1 of 6, download: run ({world.recipes}/download.yaml)."
    assert re.fullmatch(rf"stage1     run           0\.\d s  {world.out('stage1')}", printed[-5])
    card = world.out("card")
    assert printed[-1] == f"The finished model is in {card}. Next: altclip push {card} YOUR/MODEL"
    before = {path: path.read_bytes() for path in world.folder.rglob("*") if path.is_file()}
    assert world.run() == []
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed[1:7]] == [[job, "skipped"] for job in ALL]
    assert printed[-2] == "All of these steps were finished and whole: nothing was done."
    assert {path: path.read_bytes() for path in world.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "job,status,code",
    [
        ("download", 1, 1),
        ("clean", 2, 2),
        ("stage1", -9, 137),
        ("stage2", 137, 137),
        ("retrieval", 1, 1),
        ("card", -15, 143),
    ],
)
def test_a_failure_ends_the_road_and_the_same_command_goes_on(world, capsys, job, status, code):
    world.dies_in = {job: status}
    with pytest.raises(SystemExit) as end:
        world.run()
    assert end.value.code == code
    assert world.calls == ALL[: ALL.index(job) + 1]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: step {job} ended with status {code} ({world.recipes}/{job}.yaml), for the reason" in line
    assert line.endswith(f"then go on with: altclip train {world.recipes}")
    # What is finished is not done again.
    assert world.run() == ALL[ALL.index(job) :]
    assert world.run() == []


def test_a_kill_between_the_end_of_a_job_and_its_record_repeats_no_training(world):
    """The command is killed where it would have recorded that a step is done."""
    world.run()
    for job in ("clean", "stage1"):
        (step,) = choose_steps(read_road(world.recipes), [job])
        path = record_path(step)
        record = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(record | {"made": None}))
    assert world.run() == []
    assert json.loads(path.read_text("utf-8")) == record


def test_a_chosen_step(world, capsys):
    assert world.run("download", "clean") == ["download", "clean"]
    printed = capsys.readouterr().out
    assert "Step 2 of 2, clean: run" in printed
    assert printed.endswith(f"The result is in {world.out('clean')}. Next: see what it holds\n")
    assert world.run("stage1") == ["stage1"]
    assert f"The last model is in {world.out('stage1')}. Next: " in capsys.readouterr().out


def test_what_was_made_from_something_else_is_made_anew_and_the_old_is_kept(world, capsys):
    world.run()
    old = (world.out("stage2") / "config.json").read_bytes()
    # Somebody trains stage 1 by hand with other data.
    (world.out("stage1") / "config.json").write_text("other")
    write_checksums(world.out("stage1"))
    (world.recipes / "stage1.yaml").unlink()
    capsys.readouterr()
    assert world.run() == ["stage2", "retrieval", "card"]
    kept = f"{world.out('stage2')}.replaced"
    assert capsys.readouterr().out.splitlines()[0] == (
        f"{world.out('stage2')} is outdated: {world.out('stage1')} is another than the one that it was made "
        f"from. It is kept as {kept}."
    )
    assert Path(kept, "config.json").read_bytes() == old
    assert (world.out("stage2") / "config.json").read_bytes() != old
    assert world.run() == []
    # A second time there is a number.
    (world.out("stage1") / "config.json").write_text("third")
    write_checksums(world.out("stage1"))
    world.run()
    assert Path(f"{kept}.2", "config.json").is_file()


def test_a_begun_step_whose_input_is_another_now_is_not_continued(world):
    world.dies_in = {"stage2": 1}
    with pytest.raises(SystemExit):
        world.run()
    (world.out("stage1") / "config.json").write_text("other")
    write_checksums(world.out("stage1"))
    (world.recipes / "stage1.yaml").unlink()
    world.run()
    assert not (world.out("stage2") / "half").exists()


@pytest.mark.parametrize("job,name", [("clean", "data/rows.parquet"), ("stage1", "config.json")])
def test_what_is_damaged_is_made_anew(world, job, name):
    world.run()
    before = (world.out(job) / name).read_bytes()
    (world.out(job) / name).unlink()
    # It ends in the same bytes, so that what follows is not done again.
    assert world.run() == [job]
    assert (world.out(job) / name).read_bytes() == before


def test_a_card_that_was_edited_is_not_made_anew(world):
    world.run()
    (world.out("card") / "page.md").write_text("mine")
    assert world.run() == []
    (world.out("card") / "page.md").unlink()
    assert world.run() == ["card"]


def test_a_list_of_sources_next_to_the_recipe_counts(world):
    write_recipes(world.recipes, sources="- {data: a.tsv}\n")
    world.write("clean", dataset=str(world.recipes / "sources.yaml"))
    world.run()
    write_recipes(world.recipes, sources="# of ours\n- {data: a.tsv}\n")
    assert world.run() == []
    write_recipes(world.recipes, sources="- {data: b.tsv}\n")
    # What it cleans is the same here, and stage 1 goes on.
    assert world.run() == ["clean"]


@pytest.mark.parametrize("job", ["download", "clean"])
def test_other_settings_of_a_finished_step_are_refused(world, job):
    world.run()
    before = (world.out("stage1") / "config.json").read_bytes()
    world.write(job, dataset="table.parquet", reads=[], limit=7)
    with pytest.raises(InputError) as refusal:
        world.run()
    assert f"step {job} is finished in {world.out(job)} with " in str(refusal.value)
    assert f"delete the folder '{world.out(job)}', or give another output_dir" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert (world.out("stage1") / "config.json").read_bytes() == before


def test_a_training_with_other_settings_is_refused_if_weights_depend_on_them(world):
    world.run()
    world.write("stage1", reads=[str(world.out("clean"))], rate=1, logging_steps=1)
    assert world.run() == []
    world.changes = {"rate": (1, 2)}
    world.write("stage1", reads=[str(world.out("clean"))], rate=2)
    with pytest.raises(InputError) as refusal:
        world.run()
    assert str(refusal.value) == (
        f"step stage1 is finished in {world.out('stage1')} with rate 1, and recipe "
        f"'{world.recipes}/stage1.yaml', line 3 has 2: delete the folder '{world.out('stage1')}', or give "
        "another output_dir"
    )


def test_a_training_done_by_hand_in_the_same_folder_is_compared(world):
    """The record of the road is of another model than the one that is there now."""
    world.run()
    (world.out("stage2") / "config.json").write_text("by hand")
    write_checksums(world.out("stage2"))
    world.changes = {"seed": (1, 2)}
    with pytest.raises(InputError, match="step stage2 is finished in .* with seed 1, and recipe .* has 2: "):
        world.run()
    world.changes = {}
    assert world.run() == ["retrieval", "card"]


@pytest.mark.parametrize("name", ["miniature", "any_clip"])
def test_recipes_of_ours_are_right(name):
    state._parse_all(read_road(ROOT / "training/recipes" / name))


def test_a_wrong_recipe_is_refused_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "_in_new_process", lambda function, steps: function(steps))
    recipes = {
        "clean": f"dataset: a.tsv\noutput_dir: {tmp_path}/o",
        "stage1": f"learning_rte: 1\noutput_dir: {tmp_path}/p",
    }
    road = read_road(write_recipes(tmp_path / "road", **recipes))
    with pytest.raises(
        InputError, match="step stage1: recipe .*, line 1: unknown key 'learning_rte': did you"
    ):
        run_road("road", road, road, Launch(), start=None)


def test_a_page_with_other_settings_is_made_anew(world):
    world.run()
    world.write("card", title="another")
    assert world.run() == ["card"]


def test_what_was_made_without_a_road_is_taken_as_it_is(world):
    world.run()
    shutil.rmtree(world.folder / "out/.road")
    assert world.run() == ["download", "retrieval", "card"]
    assert world.run() == []


def test_a_record_that_is_none_is_refused(world):
    world.run()
    (step,) = choose_steps(read_road(world.recipes), ["clean"])
    for text in ("[]", "{}", '{"settings": 1, "inputs": {}, "made": {}}'):
        record_path(step).write_text(text)
        with pytest.raises(InputError, match="is no record of step clean: delete it"):
            world.run()


def test_two_commands_at_once(world):
    def start(command, variables):
        with pytest.raises(
            InputError, match="is in use by another command, which holds .*recipes.lock: wait"
        ):
            world.run()
        return 1

    road = read_road(world.recipes)
    with pytest.raises(SystemExit):
        run_road(str(world.recipes), road, road, Launch(), start)


def test_the_job_does_the_chosen_steps(world, monkeypatch):
    monkeypatch.setattr(running, "_start", world.start)
    main(RoadArguments(folder=str(world.recipes), steps=["clean", "download"]))
    assert world.calls == ["download", "clean"]
    with pytest.raises(InputError, match="steps has 'stage0', and the road has download clean stage1"):
        main(RoadArguments(folder=str(world.recipes), steps=["stage0"]))


def test_a_step_that_makes_nothing_ends_the_road(world, monkeypatch):
    def start(command, variables):
        return 0

    road = read_road(world.recipes)
    with pytest.raises(
        InputError, match="step download ended without an error, and .* holds nothing finished"
    ):
        run_road(str(world.recipes), road, road, Launch(), start)
    assert world.run() == ALL
    for job in ("clean", "stage1", "retrieval", "card"):
        shutil.rmtree(world.out(job))
        with pytest.raises(InputError, match=f"step {job} ended without an error, and "):
            run_road(str(world.recipes), road, road, Launch(), start)
        assert world.run()[0] == job

    def write_log(command, variables):
        (world.out("retrieval") / "log.txt").write_text("no result")
        return 0

    shutil.rmtree(world.out("retrieval") / "model")
    with pytest.raises(InputError, match="step retrieval ended without an error, and "):
        run_road(str(world.recipes), road, road, Launch(), write_log)
    assert world.run() == ["retrieval"]


def test_what_a_killed_command_left_running_is_ended(world, capsys):
    lock = record_path(read_road(world.recipes)[0]).with_name("recipes.lock")
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    left = subprocess.Popen(sleeping, env=os.environ | {"ALTCLIP_ROAD": str(lock)})
    other = subprocess.Popen(sleeping, env=os.environ | {"ALTCLIP_ROAD": "another"})
    try:
        while not {"ALTCLIP_ROAD"} <= psutil.Process(left.pid).environ().keys():
            time.sleep(0.01)
        assert world.run() == ALL
        assert not psutil.pid_exists(left.pid)
        said = f"Ended what a killed command had left running: process {left.pid}."
        assert capsys.readouterr().out.splitlines()[0] == said
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_asked_to_end_ends_its_step(number):
    # The step asks the command to end, and goes on itself.
    code = f"import os, time; os.kill(os.getppid(), {number}); time.sleep(600)"
    before = signal.getsignal(number)
    begin = time.monotonic()
    with pytest.raises(SystemExit) as end:
        running._start([sys.executable, "-c", code], {"ALTCLIP_ROAD": "this test"})
    assert end.value.code == 128 + number
    assert time.monotonic() - begin < 500
    assert signal.getsignal(number) == before


def test_the_status_of_a_process():
    assert running._start([sys.executable, "-c", "raise SystemExit(3)"], {"ALTCLIP_ROAD": "this test"}) == 3


def test_a_dry_run_prints_the_plan_and_does_nothing(world, monkeypatch):
    planned = []
    monkeypatch.setattr(road_job, "print_plan", lambda *steps: planned.append(steps))
    main(RoadArguments(folder=str(world.recipes), steps=["stage1", "clean"], dry_run=True))
    ((road, chosen),) = planned
    assert road == read_road(world.recipes)
    assert [step.job for step in chosen] == ["clean", "stage1"]
    assert not (world.folder / "out").exists()


def test_command_lines():
    (step,) = choose_steps(read_road(ROOT / "training/recipes/any_clip"), ["stage1"])
    recipe = str(step.recipe)
    given = Launch(8, "ddp.yaml").command_of(step)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    flags = ["--config_file", "ddp.yaml", "--num_processes", "8"]
    job = ["-m", "altclip", "train", "stage1", recipe, "--resume", "true"]
    assert given == [*launcher, *flags, *job]
    assert Launch().command_of(step) == [*launcher, *job]


STEPS = {"max_steps": 6, "per_device_train_batch_size": 16, "save_strategy": "steps", "save_steps": 2}
TWO_LANGUAGES = {"languages": ["en", "zh"], "limit": 40, "n_resamples": 50}


def write_small_road(folder, data):
    """Write the miniature's road, of six steps a stage with checkpoints, with its outputs in `folder/out`."""
    recipes = folder / "recipes"
    recipes.mkdir(parents=True)
    for path in (ROOT / "training/recipes/miniature").glob("*.yaml"):
        text = path.read_text("utf-8")
        for name in ("dataset", "clip", "text_encoder"):
            text = text.replace(f"outputs/miniature/{name}", str(data / name))
        settings = yaml.safe_load(text.replace("outputs/miniature", str(folder / "out")))
        if path.stem.startswith("stage"):
            settings |= STEPS
        if path.stem in ("retrieval", "zero_shot"):
            settings |= TWO_LANGUAGES | {"dataset": str(data / "dataset")}
        if path.stem == "zero_shot":
            settings["class_names"] = str(data / "dataset/class_names.json")
        if path.stem == "report":
            settings["languages"] = ["en", "zh"]
        (recipes / path.name).write_text(json.dumps(settings), "utf-8")
    return recipes


def start_road(recipes):
    """Start the command as a user does, in a session of its own."""
    command = [sys.executable, "-m", "altclip", "train", str(recipes)]
    log = (recipes.parent / "log.txt").open("ab")
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def digests_of(folder):
    names = ("teacher", "stage1", "stage2", "altclip")
    return {name: content_digest(folder / "out" / name / "model.safetensors") for name in names}


def is_done(step_record):
    return step_record.is_file() and json.loads(step_record.read_text("utf-8"))["made"] is not None


# Each moment is a sign in the folder of outputs, and who is killed at it: the command, or all its processes.
MOMENTS = [
    ("stage 0 before a checkpoint", lambda out: (out / "teacher/run.json").exists(), "all"),
    ("between two steps", lambda out: is_done(out / ".road/teacher.stage0.json"), "all"),
    ("the end of stage 1", lambda out: (out / "stage1/checksums.json").exists(), "command"),
    # The one before it is complete.
    ("the third checkpoint of stage 2", lambda out: (out / "stage2/checkpoint-6").exists(), "all"),
    ("a result", lambda out: any(out.glob("results/*/*.json")), "all"),
    ("a card that is begun", lambda out: any(out.glob(".*.tmp")), "command"),
]


@pytest.mark.slow
def test_a_road_that_is_killed_at_many_moments_ends_in_the_same_bytes(miniature, tmp_path):
    pytest.importorskip("matplotlib")
    whole = write_small_road(tmp_path / "whole", miniature)
    assert start_road(whole).wait(TIMEOUT) == 0, (whole.parent / "log.txt").read_text("utf-8")[-4000:]
    expected = digests_of(whole.parent)

    killed = write_small_road(tmp_path / "killed", miniature)
    out = killed.parent / "out"
    n_killed = 0
    for _, has_come, victims in MOMENTS:
        process = start_road(killed)
        while process.poll() is None and not has_come(out):
            time.sleep(0.01)
        if process.poll() is None:
            n_killed += 1
            kill = os.killpg if victims == "all" else os.kill
            kill(process.pid, signal.SIGKILL)
        process.wait(TIMEOUT)
    assert n_killed >= len(MOMENTS) - 2  # a short step may end before it is seen

    assert start_road(killed).wait(TIMEOUT) == 0, (killed.parent / "log.txt").read_text("utf-8")[-4000:]
    assert digests_of(killed.parent) == expected

    # Nothing is done again.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert start_road(killed).wait(TIMEOUT) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    log = (killed.parent / "log.txt").read_text("utf-8")
    assert "All of these steps were finished and whole: nothing was done." in log
    assert "stage2: resumed" in log
    assert log.count("stage0: run") == 2
    assert ".replaced" not in log
