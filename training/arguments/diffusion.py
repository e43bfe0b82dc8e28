"""Arguments of AltDiffusion."""

from dataclasses import dataclass, field

from common.errors import InputError

from .stage import StageArguments


@dataclass(kw_only=True)
class DiffusionArguments(StageArguments):
    """AltDiffusion: Stable Diffusion conditioned on an AltCLIP."""

    # Model
    model_name_or_path: str = field(
        metadata={"help": "Folder or Hub id of the AltCLIP whose text tower conditions Stable Diffusion."}
    )
    diffusion_name_or_path: str = field(
        metadata={
            "help": "Folder or Hub id of a `StableDiffusionPipeline` whose cross-attention has the width of "
            "the text tower."
        }
    )

    # Evaluation
    clip_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a CLIP, or another model of images and texts, by which pictures of "
            "some captions in every language are scored against their English, before and after training. By "
            "default nothing is scored."
        },
    )
    clip_captions: int = field(
        default=16, metadata={"help": "Number of captions that are drawn in each language to be scored."}
    )
    clip_steps: int = field(
        default=25, metadata={"help": "Number of denoising steps of a picture that is scored."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("clip_captions", "clip_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give a number of at least 1")
        # The Trainer would push its own model, and no pipeline.
        for name in ("dry_run", "validation_split", "push_to_hub", "trust_remote_code"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is {getattr(self, name)}, which diffusion training lacks: leave it out"
                )
