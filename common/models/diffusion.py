"""Load a diffusion pipeline, with errors that a user can act on."""

from pathlib import Path
from typing import TYPE_CHECKING

from modeling_altclip.checksums_altclip import check_files

from ..errors import InputError
from ..extras import of_extra
from ..paths import check_folder
from .kinds import UNREADABLE

if TYPE_CHECKING:  # else needs the extra `diffusion`, which --help does without
    from diffusers import StableDiffusionPipeline


def load_diffusion_pipeline(argument: str, name_or_path: str, **options) -> "StableDiffusionPipeline":
    """Load a Stable Diffusion pipeline from a folder or the Hub.

    Args:
        argument: the option that the pipeline was given with, for messages.
        options: those of diffusers' `from_pretrained`, such as parts that replace the pipeline's own.

    Raises:
        InputError: there is no such pipeline, or it is incomplete or damaged; or diffusers is missing.
    """
    with of_extra("diffusion"):
        from diffusers import StableDiffusionPipeline

    check_folder(argument, name_or_path)
    if Path(name_or_path).is_dir() and not Path(name_or_path, "model_index.json").exists():
        raise InputError(
            f"{argument} {name_or_path!r} has no model_index.json, "
            "so it is no StableDiffusionPipeline's folder"
        )
    try:
        check_files(name_or_path)
        return StableDiffusionPipeline.from_pretrained(name_or_path, **options)
    except UNREADABLE as error:
        raise InputError(f"{argument} {name_or_path!r} cannot be loaded: {error}") from error


__all__ = ["load_diffusion_pipeline"]
