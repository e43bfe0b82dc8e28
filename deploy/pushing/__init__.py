"""Push a finished folder to the Hub in one commit: `altclip push FOLDER ORG/NAME`.

`files.py` chooses what is pushed, `completeness.py` checks that others can load a model, `dataset_card.py`
completes the card of a data set, `privacy.py` checks that nothing private is named, `repository.py` commits
the files, and `record.py` remembers the commit in the folder.
"""

import modeling_altclip  # noqa: F401  (its settings of the process have to stand before torch is loaded)
