"""Use a finished model elsewhere: each folder is one thing that one does with it."""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
