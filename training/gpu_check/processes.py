"""Compare a step of several processes with that of one, on the whole batch."""

import tempfile
from dataclasses import replace

import torch

from ..arguments import ContrastiveArguments
from ..freezing import freeze_all_but
from ..losses import contrastive_loss
from .rows import Measured, relative_difference, within
from .shapes import Shape, build_model, make_embeddings, make_texts
from .stages import StageRun, make_trainer

_RATE = 0.1
_BOUND = 1e-3  # of what a step changes, relative
_PLAIN_SGD = {
    "max_steps": 1,
    "optim": "sgd",
    "learning_rate": _RATE,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
}


def compare_processes(shape: Shape, device: str) -> Measured:
    """Take a step of stage 2 in all processes, by plain SGD in float32, and compare it with one process's.

    Each process has a share of the pairs, and the others' pairs as negatives.

    Raises:
        CheckFailed: what the step has changed differs by more than its bound.
    """
    shape = replace(shape, batch_size=shape.pairs)
    run = StageRun(shape=shape, stage="stage2_cached", steps=1, settings=_PLAIN_SGD)
    with tempfile.TemporaryDirectory() as folder:
        trainer, batch = make_trainer(run, device, folder)
        arguments = trainer.args
        n_pairs = shape.pairs * arguments.world_size
        texts = make_texts(shape, n_pairs)
        image_embeds = make_embeddings(n_pairs, trainer.model.config.projection_dim)

        # The collator gives this dict: it gets the share of this process.
        first = shape.pairs * arguments.process_index
        share = slice(first, first + shape.pairs)
        batch |= {name: texts[name][share] for name in ("input_ids", "attention_mask", "row_ids")}
        batch["image_embeds"] = image_embeds[share]
        before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
        trainer.train()

    expected = _step_alone(shape, arguments, texts, image_embeds)
    after = dict(trainer.model.named_parameters())
    changes = [after[name].detach() - before[name] for name in expected]
    return within({"changes of weights": [relative_difference(changes, list(expected.values())), _BOUND]})


def _step_alone(
    shape: Shape, arguments: ContrastiveArguments, texts: dict[str, torch.Tensor], image_embeds: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return what one process's step on all pairs changes, by the plain formula."""
    device = arguments.device
    model = build_model(shape, device)
    freeze_all_but(model, arguments.trainable)
    inputs = {name: texts[name].to(device) for name in ("input_ids", "attention_mask")}
    text_embeds = model(**inputs).text_embeds
    contrastive_loss(image_embeds.to(device), text_embeds, model.logit_scale.exp()).backward()
    parameters = dict(model.named_parameters())
    return {name: -_RATE * value.grad for name, value in parameters.items() if value.grad is not None}


__all__ = ["compare_processes"]
