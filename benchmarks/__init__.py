"""Judging a model: image-text retrieval and zero-shot classification, in any language the data speaks.

A `task` says where images and texts lie; an `encoder` turns them into vectors, once; `retrieval` and `zero_shot` say what came of each
item, `metrics` and `uncertainty` what that is worth; `results` keeps it and `report` tells it. `run_retrieval.py`, `run_zero_shot.py`
and `run_report.py` are the commands.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
