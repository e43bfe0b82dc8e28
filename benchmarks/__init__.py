"""Evaluation of a model: image-text retrieval and zero-shot classification, in any language of the data.

A task names the images and texts, an `encoder` embeds them once, `retrieval` and `zero_shot` score each
item, `metrics` and `bootstrap` summarise the scores, `results` saves them and `report` presents them. The
commands are `run_retrieval.py`, `run_zero_shot.py` and `run_report.py`.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)

# isort: split
from common.models.loading import load_model

from .bootstrap import compare, intervals
from .encoder import CachedEncoder
from .metrics import retrieval_recall
from .mixed_pool import evaluate_mixed_pool, measure_preference
from .outcomes import load_outcomes
from .results import load_results
from .retrieval import evaluate_retrieval
from .tasks.loading import load_task
from .tasks.reading import read_rows
from .zero_shot import evaluate_zero_shot

__all__ = [
    "CachedEncoder",
    "compare",
    "evaluate_mixed_pool",
    "evaluate_retrieval",
    "evaluate_zero_shot",
    "intervals",
    "load_model",
    "load_outcomes",
    "load_results",
    "load_task",
    "measure_preference",
    "read_rows",
    "retrieval_recall",
]
