"""Training health metrics, logged beside the loss, and checks that stop or warn.

They show NaN losses, collapsed embeddings, batches that repeat themselves, and frozen weights that change.
"""

import math
import warnings

import torch
from torch import nn
from torch.nn.functional import normalize

from common.embedding_cache import fingerprint
from common.errors import InputError

from .sharding import whole

_WATCHED_ROWS = 512  # of a batch: a nearest neighbour among so many says enough, and costs little
_COLLAPSED = 0.01
_EARLY = 0.2  # share of the steps; before it an untrained tower may well give one embedding for all


class Watch:
    """Collects metrics of every step as tensors, without waiting for the device, and averages them.

    - `padding`: the share of padding among the tokens encoded.
    - `distinct`: distinct texts per caption of the batch.
    - `spread`: one minus the squared length of the mean of unit text embeddings; 0 where all texts have one
      embedding.
    - `nearest`: the share of captions whose nearest counterpart in the batch is a right one.
    - `held_moved`: where texts are held, one minus their mean cosine with their embeddings from before.
    """

    def __init__(self):
        self.seen: dict[str, list[torch.Tensor]] = {}

    @torch.no_grad()
    def see(self, inputs: dict, groups: list[dict], texts: torch.Tensor, counterparts: torch.Tensor) -> None:
        """Record one batch.

        Args:
            inputs: with `attention_mask`, `text_rows` and `row_ids`; rows that show the same have equal ids.
            groups: the texts as they were encoded, with `attention_mask`.
            texts: embeddings of the batch's captions `(captions, dim)`.
            counterparts: the targets of the captions, `(captions, dim)`: embeddings of the teacher, or of
                images.
        """
        masks = [group["attention_mask"] for group in groups]
        n_read = sum(mask.sum() for mask in masks)
        n_tokens = sum(mask.numel() for mask in masks)
        self.note("padding", 1 - n_read / n_tokens)

        n_texts = len(inputs["attention_mask"])
        n_captions = len(inputs["text_rows"])
        self.note("distinct", torch.tensor(n_texts / n_captions))

        texts = normalize(texts.float(), dim=-1)
        counterparts = normalize(counterparts.float(), dim=-1)
        self.note("spread", 1 - texts.mean(dim=0).square().sum())

        # A counterpart of another row is right as well if that row shows the same.
        rows = inputs["row_ids"][:_WATCHED_ROWS]
        cosines = texts[:_WATCHED_ROWS] @ counterparts[:_WATCHED_ROWS].T
        nearest = cosines.argmax(dim=1)
        self.note("nearest", (rows[nearest] == rows).float().mean())

    def note(self, name: str, value: torch.Tensor) -> None:
        """Record one more metric of a batch, a scalar."""
        self.seen.setdefault(name, []).append(value.detach())

    def report(self, progress: float) -> dict[str, float]:
        """Return means since the last report, and warn of unhealthy ones.

        `progress` is the share of steps that are done.
        """
        means = {name: round(torch.stack(values).mean().item(), 4) for name, values in self.seen.items()}
        self.seen.clear()
        if not means:
            return means
        if means["spread"] < _COLLAPSED and progress > _EARLY:
            warnings.warn(
                f"spread is {means['spread']}: all texts get almost the same embedding. "
                "Lower learning_rate, or warm up longer.",
                stacklevel=2,
            )
        if means["distinct"] < 0.5:
            warnings.warn(
                f"distinct is {means['distinct']}: most captions of a batch are repeats. Check the data.",
                stacklevel=2,
            )
        return means


def check_loss(logs: dict, step: int) -> None:
    """Check that the logged loss is finite.

    Raises:
        InputError: it is NaN or infinite.
    """
    loss = logs.get("loss", 0.0)
    if not math.isfinite(loss):
        raise InputError(
            f"loss is {loss} at step {step}: lower learning_rate, set bf16 for fp16, "
            "or resume from an earlier checkpoint"
        )


class FrozenWeights:
    """Fingerprints of frozen weights, to check at the end that none has changed."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.before = self._fingerprints(model)

    def check(self) -> None:
        """Check that the frozen weights have not changed since the start.

        Raises:
            RuntimeError: a frozen weight has changed; the message names it.
        """
        after = self._fingerprints(self.model)
        moved = [name for name, value in self.before.items() if after.get(name) != value]
        if moved:
            raise RuntimeError(
                f"{len(moved)} frozen weights changed while training, {moved[0]} among them: "
                "the image tower is no longer CLIP's"
            )

    @staticmethod
    def _fingerprints(model: nn.Module) -> dict[str, str]:
        """Return a fingerprint of each frozen weight's bytes, on whatever device, by its name."""
        fingerprints = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                # Gradient checkpointing wraps layers, and so changes their names.
                plain_name = name.replace("_checkpoint_wrapped_module.", "")
                fingerprints[plain_name] = fingerprint(whole(parameter.detach()))
        return fingerprints


__all__ = ["FrozenWeights", "Watch", "check_loss"]
