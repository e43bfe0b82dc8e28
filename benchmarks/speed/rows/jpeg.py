"""Embed JPEG files by the image tower of AltCLIP, ViT-B/32 with random weights.

Ours is `embed_images` with the files' paths. One peer is the loop of transformers' documentation, 32 images
at a time. The other decodes and transforms by open_clip's `image_transform` in a `DataLoader`, 64 images at a
time; the tower is transformers' in both, so that all have the same weights.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

Repeats = Iterator[Callable[[], dict]]
_OF_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def inputs(folder: Path, shape: dict) -> None:
    """Save a model, and `images` as JPEG files of 640 x 480."""
    from benchmarks.speed.inputs import draw_images, draw_texts, save_model, train_tokenizer

    save_model(folder / "model", train_tokenizer(draw_texts(100, ["en"], 5)), shape)
    for number, image in enumerate(draw_images(shape["images"], 640, 480)):
        image.save(folder / f"{number:04}.jpg", quality=90)


def ours(folder: Path, shape: dict) -> Repeats:
    from modeling_altclip import AltCLIPModel, AltCLIPProcessor, embed_images

    model = AltCLIPModel.from_pretrained(folder / "model").to(shape["device"])
    processor = AltCLIPProcessor.from_pretrained(folder / "model")
    return _repeats(folder, lambda paths: embed_images(model, processor, paths))


def transformers(folder: Path, shape: dict) -> Repeats:
    import torch
    from PIL import Image
    from transformers import AltCLIPProcessor

    embed = _tower(folder, shape)
    processor = AltCLIPProcessor.from_pretrained(folder / "model")

    def work(paths: list[Path]):
        parts = []
        for start in range(0, len(paths), 32):
            images = [Image.open(path) for path in paths[start : start + 32]]
            parts.append(embed(processor(images=images, return_tensors="pt")["pixel_values"]))
        return torch.cat(parts)

    return _repeats(folder, work)


def open_clip(folder: Path, shape: dict) -> Repeats:
    import torch
    from open_clip import image_transform
    from PIL import Image

    embed = _tower(folder, shape)
    transform = image_transform(224, is_train=False, **_OF_CLIP)

    class Files(torch.utils.data.Dataset):
        def __init__(self, paths: list[Path]):
            self.paths = paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, row: int):
            return transform(Image.open(self.paths[row]))

    def work(paths: list[Path]):
        return torch.cat(
            [embed(pixels) for pixels in torch.utils.data.DataLoader(Files(paths), batch_size=64)]
        )

    return _repeats(folder, work)


def _tower(folder: Path, shape: dict) -> Callable:
    """Return a function from pixels to unit embeddings, of transformers' own AltCLIP."""
    import torch
    from transformers import AltCLIPModel

    model = AltCLIPModel.from_pretrained(folder / "model").to(shape["device"])

    def embed(pixels):
        with torch.inference_mode():
            embeddings = model.get_image_features(pixels.to(shape["device"])).pooler_output
        return torch.nn.functional.normalize(embeddings, dim=-1).cpu()

    return embed


def _repeats(folder: Path, work: Callable) -> Repeats:
    paths = sorted(folder.glob("*.jpg"))
    yield lambda: work(paths[:2])
    while True:
        yield lambda: {"embeddings": work(paths)}
