"""Draft the card of a model that was not trained, from its recipes alone: it has no numbers of its own."""

import shlex
from pathlib import Path

from huggingface_hub import ModelCard

from common.commands import command_for
from common.errors import InputError
from common.files.yaml_files import read_yaml
from common.markdown import code_block, markdown_text

from .card import Facts, check_repo, describe_model
from .licences import is_hub_id, origin_of_model
from .paths import public_path
from .stages import Lineage, parents_in
from .trainings import Training, table_of_trainings

_TEMPLATE = Path(__file__).parent / "draft.md"


def draft_card(
    title: str, repo: str, stages: list[str], recipes: str, license: str | None, about: str
) -> ModelCard:
    """Render the draft of a card.

    Args:
        title, repo, license, about: as for `render_card`.
        stages: Hub ids, and the folders into which recipes would train, in training order.
        recipes: the folder of these recipes.

    Raises:
        InputError: no recipe trains the last stage, or a recipe cannot be read.
    """
    check_repo(repo)
    trainings = _read_recipes(Path(recipes))
    # Others are models to begin with, of the Hub, another library or other recipes.
    planned = [stage for stage in stages if stage in trainings]
    if stages[-1:] != planned[-1:]:
        raise InputError(
            f"stages ends with {stages[-1]!r}, which no recipe in {recipes!r} has as its output_dir"
        )

    base_models = _base_models(trainings, planned)
    last = trainings[planned[-1]].settings
    languages = [*last.get("languages", []), *last.get("replay_languages", [])]
    lineage = Lineage(base_model=list(filter(is_hub_id, base_models)), languages=languages)
    labels = {stage: Path(stage).name for stage in planned}
    train = f"{command_for('train')} {shlex.quote(public_path(recipes))}"
    return ModelCard.from_template(
        describe_model(Facts(model_type="", lineage=lineage), languages, repo, license),
        template_path=str(_TEMPLATE),
        text=markdown_text,
        title=title,
        about=markdown_text(about),
        base_models=[_describe_model(name) for name in base_models],
        commands=code_block([f"{train} --dry_run", train], "bash"),
        trainings=table_of_trainings({labels[stage]: trainings[stage] for stage in planned}),
    )


def _read_recipes(folder: Path) -> dict[str, Training]:
    """Read the recipes that train something, by the folder into which they do.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    trainings = {}
    for path in sorted(folder.glob("*.yaml")):
        settings = read_yaml(path, "recipe")
        # Others evaluate, download, or list sources.
        if isinstance(settings, dict) and "output_dir" in settings and parents_in(settings):
            trainings[settings["output_dir"]] = Training(settings=settings)
    if not trainings:
        raise InputError(f"draft {str(folder)!r} has no recipe of a training: give a folder of recipes")
    return trainings


def _describe_model(name: str) -> str:
    """Return a model with its licence, as its owner states it: `openai/clip-vit-base-patch32: MIT`."""
    return markdown_text(f"{name}: {origin_of_model(name).licence or 'licence not stated'}")


def _base_models(trainings: dict[str, Training], planned: list[str]) -> list[str]:
    """Return the models on which the stages begin, without those that they train themselves."""
    found = []
    for stage in planned:
        found += parents_in(trainings[stage].settings)
    return [name for name in dict.fromkeys(found) if name not in trainings]


__all__ = ["draft_card"]
