"""Training of a multilingual CLIP: an English teacher, then teacher learning, then contrastive learning.

`captions` reads captions of any form, `data` turns captioned rows into batches, and `streaming` does so
without a copy on the disk. `views` crops images, `frozen` runs a frozen tower once over a dataset. `losses`
are functions of embeddings, `trainers` holds one `transformers.Trainer` per stage, and `validation` evaluates
a model while it trains. The commands are `run_stage0.py` to `run_stage2.py`; `examples/train_in_python.py`
trains in Python.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)

# isort: split
from .arguments import ContrastiveArguments, TeacherArguments, TeacherLearningArguments
from .data.examples import CaptionCells, Collator
from .freezing import freeze_all_but
from .frozen import image_vectors, teacher_vectors
from .gradient_cache import cached_loss
from .losses import contrastive_loss, distillation_loss, gather_rows, sigmoid_loss
from .parallel.rows import CaptionRows, RowCollator
from .parallel.trainer import ParallelArguments, ParallelTrainer
from .parallel_text import load_parallel_text
from .trainers import ContrastiveTrainer, TeacherLearningTrainer
from .views import ImageViews

__all__ = [
    "CaptionCells",
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
    "freeze_all_but",
    "gather_rows",
    "image_vectors",
    "load_parallel_text",
    "sigmoid_loss",
    "teacher_vectors",
]
