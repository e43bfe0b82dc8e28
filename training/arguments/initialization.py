"""Arguments of the stages that can begin with a projection in closed form."""

from dataclasses import dataclass, field

from common.errors import InputError

from .stage import FrozenTowerArguments

_WAYS = ("random", "ridge")
_FEWEST_ROWS = 100


@dataclass(kw_only=True)
class InitializationArguments(FrozenTowerArguments):
    """Arguments of the stages whose new projection can be fitted in closed form before the first step."""

    # Model
    initialize_projection: str = field(
        default="random",
        metadata={
            "help": "How the new projection begins: random, or with the weights of the model; or ridge, "
            "which fits it by ridge regression on the training data before the first step, in stage 1 the "
            "last layer of the text head to the targets, in stage 2 visual_projection to the embeddings of "
            "the captions."
        },
    )
    initialize_rows: int = field(
        default=20_000,
        metadata={
            "help": "Maximum number of texts that initialize_projection is fitted on, drawn evenly over the "
            "languages by `seed`."
        },
    )

    @property
    def fits_projection(self) -> bool:
        """Return whether the new projection begins in closed form."""
        return self.initialize_projection != "random"

    def check_initialization(self) -> None:
        """Check the way of initialization, and the number of texts.

        Raises:
            InputError: a value is out of range.
        """
        if self.initialize_projection not in _WAYS:
            raise InputError(
                f"initialize_projection is {self.initialize_projection!r}: choose {' or '.join(_WAYS)}"
            )
        if self.initialize_rows < _FEWEST_ROWS:
            raise InputError(
                f"initialize_rows is {self.initialize_rows}, on which no projection can be fitted: give "
                f"{_FEWEST_ROWS} or more"
            )
