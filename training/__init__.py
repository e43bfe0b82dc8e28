"""Train a multilingual CLIP: an English teacher (stage 0), teacher learning (1), contrastive learning (2).

The commands are `run_stage0.py` to `run_stage2.py`. The modules behind them:

- `captions` reads captions of any form, `data` turns captioned rows into batches, `streaming` does so without
  a copy of the rows on the disk, and `views` are an image's crops.
- `frozen` runs a frozen tower once over a dataset and caches its embeddings.
- `losses` is pure arithmetic on embeddings, and `gradient_cache` computes a loss of a batch larger than
  memory.
- `trainers` holds one `transformers.Trainer` per stage, `health` and `validation` watch it, and `session`
  begins and ends a run.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
