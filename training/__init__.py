"""Training of a multilingual CLIP: an English teacher, then teacher learning, then contrastive learning.

`data` turns captions of any form into batches, from a dataset or a stream, with images or with the embeddings
of a frozen tower, which runs once. `losses` are functions of embeddings, `trainers` holds one
`transformers.Trainer` per stage, and `validation` evaluates a model while it trains. The commands are
`run_stage0.py` to `run_stage2.py`; `examples/train_in_python.py` trains in Python.
"""

from typing import TYPE_CHECKING

import common as _common  # noqa: F401  (its settings of the process have to stand before torch is loaded)

if TYPE_CHECKING:  # for those that read the code alone; `__getattr__` is for those that run it
    from .public import *

__all__ = [
    "AlignmentArguments",
    "CachedCollator",
    "CaptionExamples",
    "CaptionRows",
    "Collator",
    "ContrastiveArguments",
    "ContrastiveTrainer",
    "ImageViews",
    "ParallelArguments",
    "ParallelTrainer",
    "RowCollator",
    "TeacherArguments",
    "TeacherLearningArguments",
    "TeacherLearningTrainer",
    "cached_loss",
    "contrastive_loss",
    "distillation_loss",
    "fit_alignment",
    "freeze_all_but",
    "gather_rows",
    "image_embeddings",
    "load_parallel_text",
    "load_source",
    "load_text_encoder",
    "pooled_images",
    "pooled_texts",
    "sigmoid_loss",
    "teacher_embeddings",
    "text_similarities",
]


def __getattr__(name: str):
    """Import the public names once one is asked for: `python -m training.miniature --help` needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import public

    return getattr(public, name)
