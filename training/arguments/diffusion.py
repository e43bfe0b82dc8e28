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

    def __post_init__(self):
        super().__post_init__()
        # The Trainer would push its own model, and no pipeline.
        for name in ("dry_run", "validation_split", "push_to_hub", "trust_remote_code"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is {getattr(self, name)}, which diffusion training lacks: leave it out"
                )
