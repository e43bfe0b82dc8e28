"""Making a multilingual CLIP: an English teacher (stage 0), teacher learning (stage 1), contrastive learning (stage 2).

`losses` is pure arithmetic on embeddings, `captions` reads captions of whatever form, `data` turns captioned rows into batches,
`streaming` does so without a copy of them on the disk. `views` are an image's crops, `frozen` runs a frozen tower once over a
dataset. `trainers` holds one `transformers.Trainer` per stage, `validation` scores a model
as it trains. `run_stage0.py` to `run_stage2.py` are the commands.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
