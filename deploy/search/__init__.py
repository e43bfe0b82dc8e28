"""Search pictures by a text in any language, by a picture, or by both.

`altclip index` makes an index of a folder or a dataset, and `altclip search` asks it.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)

# isort: split
from .index import Found, ImageIndex, embed_query

__all__ = ["Found", "ImageIndex", "embed_query"]
