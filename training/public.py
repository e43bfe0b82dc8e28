"""The public names of `training`, which imports them from here as soon as one is asked for."""

# ruff: noqa: F401  (they are imported for others)

import modeling_altclip  # its model types are known to the AutoClasses

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
