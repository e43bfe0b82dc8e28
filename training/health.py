"""What is watched while a model trains: losses that are no numbers, texts that all become one, batches that repeat themselves,
frozen weights that move. Each figure goes into the log beside the loss.
"""

import math
import warnings

import torch
from torch import nn
from torch.nn.functional import normalize

from benchmarks.column_cache import fingerprint
from benchmarks.recipe import InputError

from .sharding import whole

WATCHED_ROWS = 512  # of a batch: a nearest neighbour among so many says enough, and costs little
COLLAPSED = 0.01
EARLY = 0.2  # share of the steps; before it an untrained tower may well give one vector for all


class Watch:
    """Collects a step's figures as tensors, without waiting for a device, and gives their means when the Trainer logs.

    - `padding`: the share of padding among the tokens encoded.
    - `distinct`: distinct texts per caption of the batch.
    - `spread`: one minus the squared length of the mean of unit text vectors; 0 where all texts have one vector.
    - `nearest`: the share of captions whose nearest counterpart in the batch is a right one.
    - `held_moved`: where texts are held, one minus their mean cosine with their vectors from before.
    """

    def __init__(self):
        self.seen: dict[str, list[torch.Tensor]] = {}

    @torch.no_grad()
    def see(self, inputs: dict, groups: list[dict], texts: torch.Tensor, counterparts: torch.Tensor) -> None:
        """Take one batch.

        Args:
            inputs: with `attention_mask`, `text_rows` and, of rows that show the same, equal `row_ids`.
            groups: the texts as they were encoded, with `attention_mask`.
            texts: vectors of the batch's captions `(cells, dim)`.
            counterparts: what each caption is to lie near to, `(cells, dim)`: the teacher's vectors, or images.
        """
        rows, masks = inputs["row_ids"][:WATCHED_ROWS], [group["attention_mask"] for group in groups]
        texts, counterparts = (normalize(vectors.float(), dim=-1) for vectors in (texts, counterparts))
        nearest = (texts[:WATCHED_ROWS] @ counterparts[:WATCHED_ROWS].T).argmax(dim=1)
        figures = {
            "padding": 1 - sum(mask.sum() for mask in masks) / sum(mask.numel() for mask in masks),
            "distinct": torch.tensor(len(inputs["attention_mask"]) / len(inputs["text_rows"])),
            "spread": 1 - texts.mean(dim=0).square().sum(),
            "nearest": (rows[nearest] == rows).float().mean(),
        }
        for name, figure in figures.items():
            self.note(name, figure)

    def note(self, name: str, figure: torch.Tensor) -> None:
        """Take one more figure of a batch, a scalar."""
        self.seen.setdefault(name, []).append(figure.detach())

    def report(self, progress: float) -> dict[str, float]:
        """Means since the last report, with a warning where they look ill; `progress` is the share of steps that are done."""
        means = {name: round(torch.stack(figures).mean().item(), 4) for name, figures in self.seen.items()}
        self.seen.clear()
        if means and means["spread"] < COLLAPSED and progress > EARLY:
            warnings.warn(
                f"spread is {means['spread']}: all texts get almost one vector. Lower learning_rate, or warm up longer.",
                stacklevel=2,
            )
        if means and means["distinct"] < 0.5:
            warnings.warn(
                f"distinct is {means['distinct']}: most captions of a batch are repeats. Look at the data.",
                stacklevel=2,
            )
        return means


def check_loss(logs: dict, step: int) -> None:
    """Stop at a loss that is no number.

    Raises:
        InputError: it is NaN or infinite.
    """
    loss = logs.get("loss", 0.0)
    if not math.isfinite(loss):
        raise InputError(
            f"loss is {loss} at step {step}: lower learning_rate, set bf16 for fp16, or resume from an earlier checkpoint"
        )


class FrozenWeights:
    """Remembers what is frozen, to tell at the end whether it stayed."""

    def __init__(self, model: nn.Module):
        self.model, self.before = model, self._prints(model)

    def check(self) -> None:
        """Compare.

        Raises:
            RuntimeError: a frozen weight has changed; the message names it.
        """
        after = self._prints(self.model)
        moved = [name for name, value in self.before.items() if after.get(name) != value]
        if moved:
            raise RuntimeError(
                f"{len(moved)} frozen weights changed while training, {moved[0]} among them: the image tower is no longer CLIP's"
            )

    @staticmethod
    def _prints(model: nn.Module) -> dict[str, str]:
        """A fingerprint of each frozen weight's bytes, wherever it lies, under its plain name: checkpointing wraps layers."""
        frozen = [(name, value) for name, value in model.named_parameters() if not value.requires_grad]
        return {
            name.replace("_checkpoint_wrapped_module.", ""): fingerprint(whole(value.detach()))
            for name, value in frozen
        }


__all__ = ["FrozenWeights", "Watch", "check_loss"]
