"""Keep tests out of training data: rows whose captions or pictures are in a benchmark are found and removed.

index = load_task_index(["flickr30k", "xm3600"], pictures=True)
index.find_captions(["Two dogs play in the snow"])
"""

from .captions import CaptionIndex, letters_of
from .tasks import load_task_index

__all__ = ["CaptionIndex", "letters_of", "load_task_index"]
