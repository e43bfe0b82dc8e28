"""Telling the world: from results and training logs to a finished Hub folder with a model card.

`card` renders the text, `plots` draws the pictures, `python -m model_cards RECIPE.yaml` puts both beside the
weights.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
