"""Fields that the arguments of several commands share."""

from dataclasses import field

import torch

from .errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def trust_remote_code_field() -> bool:
    """Make the field `trust_remote_code` of a dataclass, for a command that loads a finished model."""
    return field(
        default=False,
        metadata={
            "help": "Run the code that a dual encoder's text encoder brings in the model's folder: read it "
            "first. Without it such a model is refused."
        },
    )


def dtype_field() -> str:
    """Make the field `dtype` of a dataclass, for a command that computes embeddings."""
    return field(
        default="float32",
        metadata={
            "help": "The type that a model computes in: float32, bfloat16 or float16. bfloat16 takes about "
            "half of the time and memory on GPUs and on CPUs with AVX512-BF16 or AMX, and moves embeddings "
            "by about a percent of their length."
        },
    )


def check_dtype(dtype: str) -> None:
    """Check the field of `dtype_field`.

    Raises:
        InputError: there is no such type.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: choose from {', '.join(DTYPES)}")


__all__ = ["DTYPES", "check_dtype", "dtype_field", "trust_remote_code_field"]
