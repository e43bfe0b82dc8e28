"""The demo page, on this machine or as a Space of Hugging Face: `altclip page`.

- `job.py`: its arguments, and the steps.
- `demo.py`: what the page is asked: search, classification, one query in several languages.
- `markup.py`: the answers as HTML.
- `blocks.py`, `page.css`: the page itself, in Gradio.
- `space.py`: the folder of a Space.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
