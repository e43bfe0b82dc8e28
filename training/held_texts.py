"""What a finished model knew, kept while it learns one's own pictures: texts that are held to the vectors it
gave them before.

The image tower is frozen, so all that fine-tuning can spoil is where texts lie. A term is added to the loss
of each step: how far some of the texts, drawn anew, have moved. It is learning without forgetting (Li & Hoiem
2016, arXiv 1606.09282), on vectors.
"""

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel, ProcessorMixin

from benchmarks.encoder import CachedEncoder
from benchmarks.recipe import InputError
from modeling_altclip import embed_texts
from modeling_altclip.texts_altclip import is_blank

from .arguments import ContrastiveArguments
from .data import CaptionCells, texts_of
from .parallel_text import load_parallel_text

MOST_WATCHED = 1000  # a nearest neighbour among so many says enough


class HeldTexts:
    """Texts and their unit vectors `(texts, dim)` from before training; a tenth is only watched, and never
    trained with.

    Args:
        texts: distinct ones, in any languages that the model knows.
        vectors: theirs, by the model as it is before training.
        seed: of the part that is watched, and of what is drawn.
    """

    def __init__(self, texts: list[str], vectors: torch.Tensor, seed: int):
        order = np.random.default_rng(seed).permutation(len(texts))
        n_watched = min(MOST_WATCHED, max(1, len(texts) // 10))
        self.texts, self.vectors, self.seed = texts, vectors, seed
        self.watched, self.trained = order[:n_watched], order[n_watched:]

    def draw(self, n_texts: int, step: int, process: int) -> tuple[list[str], torch.Tensor]:
        """Give up to `n_texts` of the texts and their vectors, others at each step and in each process; the
        same after a resume.
        """
        random = np.random.default_rng((self.seed, step, process))
        drawn = random.choice(self.trained, min(n_texts, len(self.trained)), replace=False)
        return [self.texts[number] for number in drawn], self.vectors[torch.from_numpy(drawn)]

    def found_again(self, model: PreTrainedModel, processor: ProcessorMixin) -> float:
        """Give the share of watched texts whose vector is still nearest to its own from before, among those
        of all watched texts.
        """
        now = embed_texts(model, processor, [self.texts[number] for number in self.watched])
        before = self.vectors[torch.from_numpy(self.watched)]
        nearest = (now @ before.T).argmax(dim=1)
        return (nearest == torch.arange(len(now))).float().mean().item()


def moved(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """One minus the mean cosine of vectors `(texts, dim)` with those from before: a scalar."""
    return 1 - (normalize(now.float(), dim=-1) * before).sum(dim=-1).mean()


def hold_texts(
    arguments: ContrastiveArguments, model: PreTrainedModel, processor: ProcessorMixin, cells: CaptionCells
) -> HeldTexts | None:
    """What the recipe asks to be held: texts of `hold_dataset`, or the captions themselves; None where `hold`
    is 0.

    Raises:
        InputError: there are fewer than two texts, or `hold_dataset` cannot be read.
    """
    if arguments.hold == 0:
        return None
    if arguments.hold_dataset is None:
        texts = {text for column in cells.texts for text in column.to_pylist() if text}
    else:
        rows, _ = load_parallel_text(arguments.hold_dataset, arguments.hold_split)
        texts = set(texts_of(rows, list(rows.features["captions"])))
    texts = sorted(text for text in texts if not is_blank(text))
    if len(texts) < 2:
        raise InputError(
            f"hold is {arguments.hold}, and {len(texts)} texts are there to be held: name more by "
            "hold_dataset, or set it to 0"
        )
    encoder = CachedEncoder(model, processor, cache_dir=arguments.cache_dir)
    return HeldTexts(texts, encoder.texts(texts), arguments.seed)


__all__ = ["HeldTexts", "hold_texts", "moved"]
