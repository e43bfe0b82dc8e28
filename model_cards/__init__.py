"""Publish a model: from results and training logs to a finished Hub folder with a model card.

`card` renders the text, `plots` draws the pictures, and `job` writes both beside the weights: it is what
`python -m model_cards RECIPE.yaml` and `altclip card` do.
"""

import common as _common  # noqa: F401  (its settings of the process have to stand before torch is loaded)
