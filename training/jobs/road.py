"""Do a road: the recipes of a folder in order, those that are not finished."""

from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from training.road.plan import print_plan
from training.road.running import Launch, run_road
from training.road.steps import choose_steps, read_road


@dataclass(kw_only=True)
class RoadArguments:
    """Arguments of a road. What a step does is in its recipe."""

    folder: str = field(
        metadata={
            "help": "Folder of recipes, each named after its job; it may also stand first without the flag."
        }
    )
    steps: list[str] | None = field(
        default=None, metadata={"help": "Steps to do, such as stage1 stage2. By default all."}
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Print what the steps read, download and compute, and what they leave, and stop."},
    )
    num_processes: int | None = field(
        default=None,
        metadata={"help": "Number of processes of trainings, as in `accelerate launch`; its own by default."},
    )
    accelerate_config: str | None = field(
        default=None,
        metadata={"help": "Configuration file of `accelerate launch`, as in training/recipes/accelerate."},
    )

    def __post_init__(self):
        if self.num_processes is not None and self.num_processes < 1:
            raise InputError(f"num_processes is {self.num_processes}: give 1 or more")
        if self.accelerate_config is not None and not Path(self.accelerate_config).is_file():
            raise InputError(
                f"accelerate_config {self.accelerate_config!r} is no file: give one of accelerate's, such as "
                "training/recipes/accelerate/ddp.yaml"
            )


def main(arguments: RoadArguments) -> None:
    """Read the folder, and do its steps, or print the plan of them.

    Raises:
        InputError: the folder is no road, or a step is refused, see `run_road`.
        SystemExit: a step failed.
    """
    road = read_road(arguments.folder)
    chosen = choose_steps(road, arguments.steps)
    if arguments.dry_run:
        return print_plan(road, chosen)
    launch = Launch(arguments.num_processes, arguments.accelerate_config)
    run_road(arguments.folder, road, chosen, launch)


__all__ = ["RoadArguments", "main"]
