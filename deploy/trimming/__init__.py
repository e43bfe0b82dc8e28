"""Trim a model's vocabulary to what a corpus needs: `altclip trim`.

- `job.py`: its arguments, and the steps from a folder to a smaller one.
- `corpus.py`: the texts of a corpus, by language.
- `pieces.py`: which pieces of the vocabulary stay, and why the corpus is then read as before.
- `tokenizer_files.py`: the files of a tokenizer without the other pieces.
- `weights.py`: the embeddings of the tokens that stay, and the ids in the configuration.
- `coverage.py`: what becomes of texts, by language.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
