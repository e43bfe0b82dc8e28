"""Search pictures by a text in any language, by a picture, or by both.

`altclip index` makes an index of a folder or a dataset, and `altclip search` asks it; `index.ImageIndex`
does so in Python.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
