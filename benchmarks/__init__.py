"""Judging a model: image-text retrieval and zero-shot classification, in any language the data speaks.

`metrics` is pure arithmetic on embeddings; `retrieval` and `zero_shot` run a model over a dataset; `results` keeps what they
found. `run_retrieval.py` and `run_zero_shot.py` are the commands.
"""
