"""Plan all roads, and run each of their trainings dry, without a network: `make data-dry-run`.

A hub at a loopback address serves small copies of the corpora that the recipes name, in their layouts, and
the models' real configurations, without weights. What earlier steps would make lies there as they make it.
It ends with exit status 1 if a recipe names a source, a column, a language, a task or a model that does not
exist, and with a table of the roads.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from .fake_hub import FakeHub

_CLONE = Path(__file__).parents[1]
_RECIPES = Path("training/recipes")
ROADS = ("altclip", "altclip_m9", "altclip_m18", "any_clip", "add_languages", "parallel_coco")


def main() -> None:
    """Run in a folder of its own, in which the recipes lie at the same paths as in the clone."""
    roads = sys.argv[1:] or ROADS
    with tempfile.TemporaryDirectory() as place:
        hub = FakeHub({}, {})
        # Libraries read these when they are imported, so that `_run` imports them.
        os.environ |= hub.variables(Path(place)) | {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        clone = Path(place, "clone")
        shutil.copytree(_CLONE / _RECIPES, clone / _RECIPES)
        os.chdir(clone)
        try:
            status = _run(roads, hub, Path(place, "served"))
        finally:
            hub.shutdown()
            hub.server_close()
            os.chdir(_CLONE)
    sys.exit(status)


def _run(roads: list[str], hub: FakeHub, served: Path) -> int:
    """Run all roads dry, and print what they would do; return the exit status."""
    from benchmarks.results import format_table
    from common.errors import InputError
    from training.road.plan import print_plan
    from training.road.steps import read_road

    from .road_replicas import RoadReplica, row_of_table

    replica = RoadReplica(hub, served)
    replica.write_models()
    table = []
    try:
        steps_of = {name: read_road(_RECIPES / name) for name in roads}
        for name, steps in steps_of.items():
            print(f"\n{name}\n")
            print_plan(steps, steps)
            table.append(row_of_table(name, steps))
        replica.write_corpora([step for steps in steps_of.values() for step in steps])
        for name, steps in steps_of.items():
            for step in steps:
                print(f"\n{name}, {step.job}: dry run on small copies of its data\n")
                replica.run_dry(step)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    header, *rows = [list(table[0]), *[list(row.values()) for row in table]]
    print(f"\n{format_table(header, rows)}\n")
    print("Estimates, by `make data-dry-run`: no road was run at full size.")
    return 0


if __name__ == "__main__":
    main()
