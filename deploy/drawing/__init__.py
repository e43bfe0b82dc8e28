"""Draw pictures by one prompt in many languages: `altclip draw`.

- `job.py`: its arguments, and the steps from prompts to a folder.
- `prompts.py`: the prompt of each language.
- `grid.py`: all pictures as one, a row for each language.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
