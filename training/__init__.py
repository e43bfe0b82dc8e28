"""Making a multilingual CLIP: an English teacher (stage 0), teacher learning (stage 1), contrastive learning (stage 2).

`losses` is pure arithmetic on embeddings, `data` turns captioned rows into batches, `frozen` runs a frozen tower once over a
dataset, `column_cache` keeps what it made, `views` are an image's crops, `trainers` holds one `transformers.Trainer` per stage. `run_stage0.py` to `run_stage2.py` are the commands.
"""
