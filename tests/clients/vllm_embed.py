"""Embed texts, pictures, and both in one batch by vLLM.

python vllm_embed.py MODEL texts.json FOLDER_OF_PICTURES found.npz

Nothing of ours is imported, so that this runs in vLLM's own environment.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from vllm import LLM


def main(model: str, texts_file: str, pictures: str, found: str) -> None:
    """Save the embeddings `texts`, `images` and `mixed`: first text, first picture, second text."""
    llm = LLM(model, runner="pooling", dtype="float32", max_model_len=16, enforce_eager=True)
    texts = json.loads(Path(texts_file).read_text("utf-8"))
    images = []
    for path in sorted(Path(pictures).glob("*.png")):
        images.append({"prompt": "", "multi_modal_data": {"image": Image.open(path)}})
    np.savez(
        found,
        texts=_embed(llm, texts),
        images=_embed(llm, images),
        mixed=_embed(llm, [texts[0], images[0], texts[1]]),
    )


def _embed(llm: LLM, prompts: list) -> np.ndarray:
    return np.array([output.outputs.embedding for output in llm.embed(prompts)])


# It starts processes, which import this file again.
if __name__ == "__main__":
    main(*sys.argv[1:])
