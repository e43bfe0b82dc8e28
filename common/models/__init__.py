"""Models to evaluate: transformers' own, LoRAs, and models of other libraries behind one interface."""

import modeling_altclip  # noqa: F401  (its model types are known to the AutoClasses)
