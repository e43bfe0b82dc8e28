"""Cleaning of parallel text before stage 1: what is removed, and why, is counted and shown.

Three passes over the parts of all sources, each of which writes files that get their names when complete:

1. `checking`: the steps of `checks` on each row, and MinHashes of the pairs that are left, sorted.
2. `duplicates`: a merge of the sorted hashes, which finds pairs that may be near-duplicates.
3. `finishing`: a comparison of their texts; the rows that are kept, as parquet.

`report` then adds up the tallies. The output depends on the data and the settings alone, not on the number of
processes, nor on how often the run was killed and started again.
"""
