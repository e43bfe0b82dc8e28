"""Load a finished model as a user does, embed two images and two texts, and save the embeddings.

python read_model.py MODEL PHOTOS OUTPUT_DIR
"""

import sys
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.models.loading import load_model
from modeling_altclip import embed_images, embed_texts


def main(folder: str, photos: str, output_dir: str) -> None:
    try:
        model, processor = load_model(folder, argument="model")
        images = sorted(Path(photos).glob("0*.png"))[:2]
        of_images = embed_images(model, processor, [str(path) for path in images], convert_to_numpy=True)
        of_texts = embed_texts(model, processor, ["a dog", "钥匙"], convert_to_numpy=True)
    except (InputError, ValueError) as error:
        sys.exit(f"read_model.py: error: {' '.join(str(error).split())}")
    Path(output_dir).mkdir()
    np.save(Path(output_dir, "embeddings.npy"), np.concatenate([of_images, of_texts]))


if __name__ == "__main__":
    main(*sys.argv[1:])
