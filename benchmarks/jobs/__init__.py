"""What the evaluation's scripts do: each module's `main` is called by a script and by the command `altclip`.

The types of its parameters are the dataclasses that flags and recipes fill.
"""
