"""Arguments of stages 1 and 2: which weights of the text tower learn, or low-rank updates of them (LoRA)."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from accelerate.utils import parse_flag_from_env
from transformers.trainer_utils import HubStrategy

from common.errors import InputError

from .stage import StageArguments

_LORA_OUTPUTS = ("merged", "adapter")


@dataclass(kw_only=True)
class LowRankArguments(StageArguments):
    """Arguments of the stages whose text tower can learn in part, or by low-rank updates (LoRA)."""

    # Model
    freeze: list[str] | None = field(
        default=None,
        metadata={
            "help": "Modules or parameters of the trained parts that stay frozen, by their names in the "
            "model: text_model.encoder.embeddings are the embeddings of a dual encoder, "
            "text_model.roberta.encoder.layer.0 is the first layer of an AltCLIP. By default none."
        },
    )
    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "Rank of the updates that the text tower's linear layers learn (LoRA), such as 16. Its "
            "own weights are frozen, and the updates are merged into them when the model is saved. By "
            "default all its weights are trained."
        },
    )
    lora_alpha: float | None = field(
        default=None,
        metadata={
            "help": "The updates are multiplied by this and divided by `lora_rank`. By default twice it."
        },
    )
    lora_output: str = field(
        default="merged",
        metadata={
            "help": "What is saved: merged, the whole model with the updates in its weights; or adapter, the "
            "updates and what else learned, as an adapter of peft on `model_name_or_path`."
        },
    )

    @property
    def saves_adapter(self) -> bool:
        """Return whether the folder of the run becomes an adapter, and no whole model."""
        return self.lora_output == "adapter"

    def check_low_rank(self) -> None:
        """Check rank, scale and output of low-rank updates, and set the scale's default.

        Raises:
            InputError: one is out of range, scale or output is given alone, weights are sharded, or an
                adapter could not be loaded where it is pushed to.
        """
        if self.lora_output not in _LORA_OUTPUTS:
            raise InputError(f"lora_output is {self.lora_output!r}: choose {' or '.join(_LORA_OUTPUTS)}")
        if self.lora_rank is None:
            self._check_without_rank()
            return
        if self.freeze:
            raise InputError(
                f"lora_rank is {self.lora_rank}, which freezes all weights of the text tower, and freeze "
                f"names {' '.join(self.freeze)}: leave out one of the two"
            )
        if self.lora_rank < 1:
            raise InputError(
                f"lora_rank is {self.lora_rank}: give a whole number from 1, or leave it out to train all "
                "weights"
            )
        if self.lora_alpha is None:
            self.lora_alpha = 2.0 * self.lora_rank
        if not 0 < self.lora_alpha < math.inf:
            raise InputError(f"lora_alpha is {self.lora_alpha}: give a positive number, or leave it out")
        is_sharded = self.deepspeed_plugin is not None or parse_flag_from_env("ACCELERATE_USE_FSDP")
        if self.fsdp or is_sharded:
            raise InputError(
                f"lora_rank is {self.lora_rank}, which FSDP and DeepSpeed do not train here: take ddp.yaml"
            )
        if self.saves_adapter and self.push_to_hub:
            self._check_pushed_adapter()

    def _check_without_rank(self) -> None:
        """Check that nothing of low-rank updates is given where there are none.

        Raises:
            InputError: scale or output is given.
        """
        if self.saves_adapter:
            raise InputError("lora_output is adapter without lora_rank: give both, or neither")
        if self.lora_alpha is not None:
            raise InputError(f"lora_alpha is {self.lora_alpha} without lora_rank: give both, or neither")

    def _check_pushed_adapter(self) -> None:
        """Check an adapter that is pushed: its base is on the Hub as well, and checkpoints stay here.

        Raises:
            InputError: the base is a folder of this machine, or checkpoints would be pushed to the place of
                the adapter.
        """
        if Path(self.model_name_or_path).exists():
            raise InputError(
                f"push_to_hub is true, and the adapter's base is {self.model_name_or_path!r}, a folder of "
                "this machine: push that first, and give its Hub id as model_name_or_path"
            )
        if self.hub_strategy != HubStrategy.END:
            raise InputError(
                f"hub_strategy is {self.hub_strategy.value}, and lora_output is adapter: checkpoints, which "
                "hold whole models, would be pushed to the place of the adapter: set hub_strategy to end"
            )
