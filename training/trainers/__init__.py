"""One `transformers.Trainer` per objective."""

from .base import AltCLIPTrainer
from .batches import TEXTS, by_length, images_of
from .contrastive import MAX_LOGIT_SCALE, ContrastiveTrainer, pair_loss
from .teacher_learning import TeacherLearningTrainer

__all__ = [
    "MAX_LOGIT_SCALE",
    "TEXTS",
    "AltCLIPTrainer",
    "ContrastiveTrainer",
    "TeacherLearningTrainer",
    "by_length",
    "images_of",
    "pair_loss",
]
