"""One `transformers.Trainer` per objective. Data, logging, precision, scale and resuming are the Trainer's own."""

import math
from collections.abc import Callable

import torch
from torch import nn
from transformers import Trainer

from .losses import contrastive_loss, distillation_loss, gather_rows

MAX_LOGIT_SCALE = math.log(100)  # CLIP's bound: logits are scaled by 100 at most


def freeze_all_but(model: nn.Module, trainable: list[str]) -> None:
    """Let only the parameters learn that lie below one of the names in `trainable`.

    Raises:
        ValueError: a name is no part of the model.
    """
    parts = list(dict(model.named_children())) + [name for name, _ in model.named_parameters()]
    unknown = [name for name in trainable if name not in parts]
    if unknown:
        raise ValueError(
            f"trainable names {', '.join(unknown)}, which the model has not; its parts are {', '.join(dict(model.named_children()))}"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name == part or name.startswith(part + ".") for part in trainable))


def encode_by_length(encode: Callable[..., torch.Tensor], inputs: dict, n_groups: int) -> torch.Tensor:
    """Encode the texts of a batch in groups of like length, each padded to its own longest only, and give them in their order.

    Args:
        encode: `(input_ids, attention_mask) -> (texts, dim)`.
        inputs: `input_ids` and `attention_mask` `(texts, tokens)`, padded on the right.
        n_groups: 1 encodes the batch as it is.
    """
    if n_groups == 1:
        return encode(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    lengths = inputs["attention_mask"].sum(1)
    order = lengths.argsort(stable=True)
    encoded = []
    for group in order.chunk(n_groups):
        longest = lengths[group[-1]]
        encoded.append(encode(**{name: inputs[name][group, :longest] for name in ("input_ids", "attention_mask")}))
    return torch.cat(encoded).index_select(0, order.argsort())


class AltCLIPTrainer(Trainer):
    """What the stages share: losses are means over the batch, and only matrices are decayed."""

    @property
    def length_groups(self) -> int:
        """One where there are several processes: DDP talks at every forward, and processes may have unequally many groups."""
        return self.args.length_groups if self.args.world_size == 1 else 1

    # The Trainer divides by the number of accumulation steps; left at None it can take our mean for a sum and not divide.
    loss_is_scaled_for_ga = False

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All but biases, norms, class embedding and temperature; stock rules would decay the last two."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]


class TeacherLearningTrainer(AltCLIPTrainer):
    """Stage 1. The model is an `AltCLIPTextModel`; batches carry `target`, the teacher's vectors `(texts, project_dim)`."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        vectors = encode_by_length(lambda **texts: model(**texts).pooler_output, inputs, self.length_groups)
        loss = distillation_loss(vectors.index_select(0, inputs["text_rows"]).float(), inputs["target"])
        return (loss, vectors) if return_outputs else loss


class ContrastiveTrainer(AltCLIPTrainer):
    """Stages 0 and 2. The model is a CLIP or AltCLIP; batches carry `pixel_values`, or `image_embeds` from a frozen tower.

    Rows of equal `row_ids` show the same thing and are positives of one another. Negatives come from all processes.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        unwrapped = self.accelerator.unwrap_model(model)
        with torch.no_grad():
            unwrapped.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        for part in unwrapped.children():
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()  # the Trainer puts the whole model into training mode at each step
        if "image_embeds" in inputs:
            image_embeds = inputs["image_embeds"]
            text_embeds = encode_by_length(lambda **texts: model(**texts).text_embeds, inputs, self.length_groups)
        else:
            outputs = model(**{name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")})
            image_embeds, text_embeds = outputs.image_embeds, outputs.text_embeds
        # Not by brackets: on a CPU their backward adds up in any order, and equal seeds would give other weights.
        text_embeds = text_embeds.index_select(0, inputs["text_rows"])
        image_embeds, text_embeds, row_ids = map(gather_rows, (image_embeds.float(), text_embeds.float(), inputs["row_ids"]))
        loss = contrastive_loss(image_embeds, text_embeds, unwrapped.logit_scale.exp(), image_ids=row_ids)
        return (loss, (image_embeds, text_embeds)) if return_outputs else loss
