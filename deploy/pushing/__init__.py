"""Push a finished folder to the Hub in one commit: `altclip push FOLDER ORG/NAME`.

`files.py` chooses what is pushed, `completeness.py` checks that others can load it, `privacy.py` that it
names nothing private, `repository.py` commits it, and `record.py` remembers the commit in the folder.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
