"""Search images by a text in any language that the model reads.

python examples/search.py "선인장 및 풍선"
python examples/search.py "a dog on a beach" --model BAAI/AltCLIP-m9 --images PHOTOS --split train

`--images` is what `datasets.load_dataset` reads: a folder of pictures, parquet files, a Hub id.
"""

import argparse

from datasets import load_dataset
from PIL import Image
from transformers import AutoModel, AutoProcessor

from modeling_altclip import embed_images, embed_texts

SIZE = 192  # pixels of an image in the contact sheet


def main(arguments: argparse.Namespace) -> None:
    model = AutoModel.from_pretrained(arguments.model)
    processor = AutoProcessor.from_pretrained(arguments.model)
    dataset = load_dataset(arguments.images, split=arguments.split)

    # Embeddings have unit norm, so that their dot products are cosine similarities.
    dim = arguments.truncate_dim
    image_embeds = embed_images(model, processor, dataset["image"], truncate_dim=dim)
    text_embeds = embed_texts(model, processor, [arguments.query], truncate_dim=dim)
    similarity = image_embeds @ text_embeds[0]
    best = similarity.topk(min(arguments.top, len(dataset)))

    for score, row in zip(best.values.tolist(), best.indices.tolist()):
        captions = dataset[row].get("captions") or {}
        print(f"{score:.3f}  image {row}  {captions.get('en', '')}")
    draw([dataset[row]["image"] for row in best.indices.tolist()], arguments.output)
    print(f"Saved the {len(best.indices)} best of {len(dataset)} images, best first, to {arguments.output}.")


def draw(images: list[Image.Image], path: str) -> None:
    """Save the images side by side."""
    sheet = Image.new("RGB", (SIZE * len(images), SIZE), "white")
    for place, image in enumerate(images):
        sheet.paste(image.convert("RGB").resize((SIZE, SIZE)), (SIZE * place, 0))
    sheet.save(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("query", help="A text, in any language that the model reads.")
    parser.add_argument("--model", default="outputs/miniature/altclip", help="A folder or a Hub id.")
    parser.add_argument(
        "--images", default="outputs/miniature/dataset", help="A dataset with a column `image`."
    )
    parser.add_argument("--split", default="test_pairs", help="The split of the dataset to search.")
    parser.add_argument("--top", type=int, default=5, help="The number of images to show.")
    parser.add_argument("--truncate_dim", type=int, help="The number of dimensions to compare, or all.")
    parser.add_argument("--output", default="found.png", help="The picture that shows the images found.")
    main(parser.parse_args())
