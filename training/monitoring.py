"""Training health metrics, logged beside the loss, and checks that stop or warn.

They show NaN losses, collapsed embeddings, batches that repeat themselves, and frozen weights that change.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from safetensors import safe_open
from torch import nn
from torch.nn.functional import normalize

from common.embedding_cache import fingerprint
from common.errors import InputError
from modeling_altclip.finite_altclip import find_not_finite

from .sharding import local, whole

_WATCHED_ROWS = 512  # of a batch: a nearest neighbour among so many says enough, and costs little
_COLLAPSED = 0.01
_EARLY = 0.2  # share of the steps; before it an untrained tower may well give one embedding for all

_REMEDY = "lower learning_rate, set bf16 for fp16, or resume from an earlier checkpoint"


class Watch:
    """Collects metrics of every step as tensors, without waiting for the device, and averages them.

    - `padding`: the share of padding among the tokens encoded, where any are.
    - `distinct`: distinct texts per caption of the batch.
    - `spread`: one minus the squared length of the mean of unit text embeddings; 0 where all texts have one
      embedding.
    - `nearest`: the share of captions whose nearest counterpart in the batch is a right one.
    - `logit_scale`, `logit_bias`: with the sigmoid loss, the scale that cosines are multiplied by, and the
      bias that is added.
    - `held_moved`: where texts are held, one minus their mean cosine with their embeddings from before.
    - `text_pairs_loss`: where translation pairs are trained, their loss before its weight.
    """

    def __init__(self):
        self.seen: dict[str, list[torch.Tensor]] = {}

    @torch.no_grad()
    def see(self, inputs: dict, groups: list[dict], texts: torch.Tensor, counterparts: torch.Tensor) -> None:
        """Record one batch.

        Args:
            inputs: with `text_rows` and `row_ids`; rows that show the same have equal ids.
            groups: the texts as they were encoded, with `attention_mask`; none where their embeddings are
                cached.
            texts: embeddings of the batch's captions `(captions, dim)`.
            counterparts: the targets of the captions, `(captions, dim)`: embeddings of the teacher, or of
                images.
        """
        if groups:
            masks = [group["attention_mask"] for group in groups]
            n_read = sum(mask.sum() for mask in masks)
            n_tokens = sum(mask.numel() for mask in masks)
            self.note("padding", 1 - n_read / n_tokens)

        # Each distinct text belongs to a caption: rows [1, 0, 1] are of two texts.
        n_texts = inputs["text_rows"].max() + 1
        n_captions = len(inputs["text_rows"])
        self.note("distinct", n_texts / n_captions)

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


class FiniteSteps:
    """Notes the first step whose loss or gradient norm was NaN or infinite.

    Both stay on the device, so that no step waits for it; `check` reads them where the device is waited for
    in any case. The log, of the mean over many steps, would name a later step, and `logging_nan_inf_filter`
    would hide it.
    """

    _KINDS = ("loss", "gradient norm")

    def __init__(self, device: torch.device):
        # By kind: the first bad step, infinite as long as there is none, and the value there.
        self.step = torch.full((len(self._KINDS),), math.inf, device=device)
        self.value = torch.zeros(len(self._KINDS), device=device)

    @torch.no_grad()
    def note(self, kind: str, value: torch.Tensor, step: int) -> None:
        """Note a step's value, a scalar; `kind` is `loss` or `gradient norm`."""
        number = self._KINDS.index(kind)
        value = value.detach().to(self.step.device, torch.float32)
        is_first = ~value.isfinite() & self.step[number].isinf()
        self.step[number] = torch.where(is_first, step, self.step[number])
        self.value[number] = torch.where(is_first, value, self.value[number])

    def check(self, accelerator: Accelerator) -> None:
        """Check that all values so far were finite, in all processes; each of them has to call.

        Raises:
            InputError: one was not, in any process; the message names the first step. All processes raise it.
        """
        # (processes, kinds), of which the loss of a process may be its own alone
        steps = accelerator.gather(self.step[None]).cpu()
        values = accelerator.gather(self.value[None]).cpu()
        first = steps.min().item()
        if math.isinf(first):
            return
        # Of one step, the loss is named before the gradient that it made: hence kinds come first.
        number, process = (steps.T == first).nonzero()[0].tolist()
        raise InputError(
            f"{self._KINDS[number]} is {values[process, number].item()} at step {int(first)}: {_REMEDY}"
        )


def check_scaler(accelerator: Accelerator) -> None:
    """Check that fp16 trains: its scaler skips steps whose gradients overflow, silently.

    Raises:
        InputError: so many steps were skipped that it does not scale any more.
    """
    scaler = accelerator.scaler
    # It begins at 65,536, halves the scale with each step that it skips, and doubles it after 2,000 others.
    if scaler is not None and scaler.get_scale() < 1:
        raise InputError(
            f"fp16 scales the loss by {scaler.get_scale():.3g}, since gradients were NaN or infinite in many "
            f"steps, which were skipped: {_REMEDY}"
        )


def check_all_finite(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, when: str, accelerator: Accelerator
) -> None:
    """Check every weight, and every moment of the optimizer, of a model that is trained.

    Where they are sharded each process checks its own, and all have to call.

    Args:
        when: ends the message: `before checkpoint-4 is saved`.

    Raises:
        InputError: one is NaN or infinite; the message names the first. All processes raise it.
    """
    names = find_not_finite((name, local(value)) for name, value in model.named_parameters())
    if optimizer is not None:
        names += find_not_finite(_moments(optimizer))
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        names += find_not_finite(_own_weights(optimizer))
    # Otherwise all processes have the same weights.
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        names = gather_object(names)
    if names:
        raise InputError(
            f"{len(names)} of the model's weights and the optimizer's moments are NaN or infinite {when}, "
            f"{names[0]} first: {_REMEDY}"
        )


def _moments(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the moments of an optimizer, by name."""
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                yield f"{name} of the optimizer", local(value)


def _own_weights(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield this process's parts of the weights, which DeepSpeed's optimizer holds in float32."""
    for group in optimizer.param_groups:
        for value in group["params"]:
            yield "weights of the optimizer", local(value)


def find_not_finite_in(folder: Path) -> list[str]:
    """Return the names of those weights in a folder's safetensors files that are NaN or infinite."""
    names = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names += find_not_finite((name, file.get_tensor(name)) for name in file.keys())
    return names


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


__all__ = [
    "FiniteSteps",
    "FrozenWeights",
    "Watch",
    "check_all_finite",
    "check_scaler",
    "find_not_finite_in",
]
