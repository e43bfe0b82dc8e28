"""The miniature: a real multilingual CLIP experiment that fits in minutes of two CPU cores, offline.

`python -m training.miniature` writes emoji scenes as an ordinary dataset folder, and two untrained towers
with their tokenizers. The stages and benchmarks then run on these as they would on a user's own data and
checkpoints.
"""
