"""Models to evaluate: transformers' own, LoRAs, and models of other libraries behind one interface."""
