"""Evaluate models on image-text retrieval and zero-shot classification, in any language of the data.

A `task` says where images and texts are; an `encoder` embeds them, once; `retrieval` and `zero_shot` give
per-item results, `metrics` and `uncertainty` turn them into scores with intervals; `results` saves and
`report` presents them. `run_retrieval.py`, `run_zero_shot.py` and `run_report.py` are the commands.
"""

import modeling_altclip  # noqa: F401  (sets environment variables, before torch is loaded)
