"""Fields that the arguments of several commands share."""

from dataclasses import field


def trust_remote_code_field() -> bool:
    """Make the field `trust_remote_code` of a dataclass, for a command that loads a finished model."""
    return field(
        default=False,
        metadata={
            "help": "Run the code that a dual encoder's text encoder brings in the model's folder: read it "
            "first. Without it such a model is refused."
        },
    )


__all__ = ["trust_remote_code_field"]
