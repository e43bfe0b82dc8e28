"""Regularise fine-tuning on one's own pictures: some texts are held near their embeddings from before.

The image tower is frozen, so that fine-tuning can only spoil the text embeddings. Each step adds a term to
the loss: how far a random sample of the held texts has moved. This is learning without forgetting (Li & Hoiem
2016, arXiv 1606.09282), applied to embeddings.
"""

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel, ProcessorMixin

from benchmarks.encoder import CachedEncoder
from common.errors import InputError
from modeling_altclip import embed_texts
from modeling_altclip.texts_altclip import is_blank

from .arguments import ContrastiveArguments
from .data.examples import CaptionExamples, all_texts
from .data.parallel_text import read_parallel_text
from .data.streaming import AnyStream
from .output_folder import record_sources

_MOST_WATCHED = 1000  # a nearest neighbour among so many says enough


class HeldTexts:
    """Texts and their unit embeddings `(texts, dim)` from before training.

    A tenth of the texts is only watched, and never trained with: it shows what the model has forgotten.

    Args:
        texts: distinct texts, in any languages that the model knows.
        embeddings: their embeddings by the model as it is before training.
        seed: of the choice of watched texts, and of what is drawn at each step.
    """

    def __init__(self, texts: list[str], embeddings: torch.Tensor, seed: int):
        self.texts = texts
        self.embeddings = embeddings
        self.seed = seed

        order = np.random.default_rng(seed).permutation(len(texts))
        n_watched = min(_MOST_WATCHED, max(1, len(texts) // 10))
        self.watched = order[:n_watched]
        self.trained = order[n_watched:]

    def draw(self, n_texts: int, step: int, process: int) -> tuple[list[str], torch.Tensor]:
        """Draw up to `n_texts` of the texts, with their embeddings `(texts, dim)`.

        Every step and process draws others; after a resume the same step draws the same ones again.
        """
        random = np.random.default_rng((self.seed, step, process))
        drawn = random.choice(self.trained, min(n_texts, len(self.trained)), replace=False)
        texts = [self.texts[number] for number in drawn]
        return texts, self.embeddings[torch.from_numpy(drawn)]

    def found_again(self, model: PreTrainedModel, processor: ProcessorMixin) -> float:
        """Return the share of watched texts whose embedding is still nearest to its own from before.

        The candidates are the earlier embeddings of all watched texts.
        """
        now = embed_texts(model, processor, [self.texts[number] for number in self.watched])
        before = self.embeddings[torch.from_numpy(self.watched)]
        nearest = (now @ before.T).argmax(dim=1)
        is_own = nearest == torch.arange(len(now))
        return is_own.float().mean().item()


def moved(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return one minus the mean cosine of embeddings with unit ones from before, both `(texts, dim)`."""
    cosines = (normalize(now.float(), dim=-1) * before).sum(dim=-1)
    return 1 - cosines.mean()


def hold_texts(
    arguments: ContrastiveArguments,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    examples: CaptionExamples | AnyStream,
) -> HeldTexts | None:
    """Embed the texts to hold: those of `hold_dataset`, or the captions where the recipe names none.

    Returns:
        None if the recipe's `hold`, the weight of the term, is 0.

    Raises:
        InputError: there are fewer than two texts, or `hold_dataset` cannot be read.
    """
    if arguments.hold == 0:
        return None
    if arguments.hold_dataset is None:
        # No stream: `check_hold` has asked for `hold_dataset` then.
        texts = set(all_texts(examples.captions, examples.languages))
    else:
        held = read_parallel_text(arguments.hold_dataset, arguments.hold_split, languages=arguments.languages)
        record_sources(arguments, held.origins)
        texts = set(all_texts(held.rows, list(held.rows.features["captions"])))
    # Sorted, so that every process and every resumed run numbers the texts alike.
    texts = sorted(text for text in texts if not is_blank(text))
    if len(texts) < 2:
        raise InputError(
            f"hold is {arguments.hold}, and {len(texts)} texts are there to be held: name more by "
            "hold_dataset, or set it to 0"
        )
    encoder = CachedEncoder(model, processor, cache_dir=arguments.cache_dir)
    return HeldTexts(texts, encoder.texts(texts), arguments.seed)


__all__ = ["HeldTexts", "hold_texts", "moved"]
