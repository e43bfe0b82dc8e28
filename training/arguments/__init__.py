"""One dataclass of arguments per stage: `transformers.TrainingArguments` and what the stage adds.

The keys of a recipe are these fields, and `--help` prints their texts. Fields of one subject stand together
under a heading: data, model, batch, evaluation.
"""

from .alignment import AlignmentArguments
from .contrastive import ContrastiveArguments
from .diffusion import DiffusionArguments
from .initialization import InitializationArguments
from .low_rank import LowRankArguments
from .pairs import PairArguments, TeacherArguments
from .stage import ExclusionArguments, FrozenTowerArguments, StageArguments, say
from .teacher_learning import TeacherLearningArguments

__all__ = [
    "AlignmentArguments",
    "ContrastiveArguments",
    "DiffusionArguments",
    "ExclusionArguments",
    "FrozenTowerArguments",
    "InitializationArguments",
    "LowRankArguments",
    "PairArguments",
    "StageArguments",
    "TeacherArguments",
    "TeacherLearningArguments",
    "say",
]
