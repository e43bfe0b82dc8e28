"""The comparisons that need no training; those that do are in `training/speed`.

Each module has a function `inputs`, which writes what all sides read, and a generator function for each side.
Our packages are imported inside of functions: where they are imported they set environment variables and
register classes with transformers, and a peer's process has to be without both.
"""
