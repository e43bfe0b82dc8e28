"""Training of a multilingual CLIP: an English teacher, then teacher learning, then contrastive learning.

`data` turns captions of any form into batches, from a dataset or a stream, with images or with the embeddings
of a frozen tower, which runs once. `losses` are functions of embeddings, `trainers` holds one
`transformers.Trainer` per stage, and `validation` evaluates a model while it trains. The commands are
`run_stage0.py` to `run_stage2.py`; `examples/train_in_python.py` trains in Python.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)

# isort: split
from .alignment import fit_alignment
from .arguments import AlignmentArguments, ContrastiveArguments, TeacherArguments, TeacherLearningArguments
from .data.examples import CachedCollator, CaptionExamples, Collator
from .data.images import ImageViews
from .data.parallel_text import load_parallel_text
from .data.sources.loading import load_source
from .data.tower_cache import image_embeddings, pooled_images, pooled_texts, teacher_embeddings
from .freezing import freeze_all_but
from .gradient_cache import cached_loss
from .losses import contrastive_loss, distillation_loss, gather_rows, sigmoid_loss
from .parallel.caption_rows import CaptionRows, RowCollator
from .parallel.trainer import ParallelArguments, ParallelTrainer
from .text_similarity import load_text_encoder, text_similarities
from .trainers import ContrastiveTrainer, TeacherLearningTrainer

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
