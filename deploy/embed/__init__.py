"""Embed pictures at any scale: one callable for `Dataset.map`, Ray Data and Daft."""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)

# isort: split
from .embedder import EmbedImages

__all__ = ["EmbedImages"]
