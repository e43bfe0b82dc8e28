"""Which texts describe which images of a batch, and how much each of them weighs in a loss."""

from typing import NamedTuple

import torch


class Groups(NamedTuple):
    """A number for each text and each image; a text describes the images of its number."""

    of_texts: torch.Tensor  # (T,)
    of_images: torch.Tensor  # (I,)

    def positives(self, rows: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        """Return which pairs of the given texts and all images are right, `(rows, I)` of bool."""
        return self.of_texts[rows][:, None] == self.of_images[None]

    def count_positives(self) -> torch.Tensor:
        """Return the number of right pairs, `()`."""
        images_of_group = self.of_images.bincount(minlength=len(self.of_images))
        return images_of_group[self.of_texts].sum()

    def sum_texts(self, texts: torch.Tensor) -> torch.Tensor:
        """Return the sum of the rows of each group's texts, `(I, dim)`; there are at most I groups."""
        return _sum_by_group(texts, self.of_texts, len(self.of_images))

    def sum_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return the sum of the rows of each group's images, `(I, dim)`."""
        return _sum_by_group(images, self.of_images, len(self.of_images))


def _sum_by_group(rows: torch.Tensor, groups: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Return the sum of the rows of each group, `(n_groups, dim)`.

    This is the gradient of looking up embeddings. Other than `index_add_`, it adds in the same order each
    time on a GPU as well.
    """
    return torch.ops.aten.embedding_dense_backward(rows, groups, n_groups, -1, False)


class Weights(NamedTuple):
    """The weight of each term of a contrastive loss, so that their sum is the mean of both directions."""

    of_texts: torch.Tensor  # (T,), for a text's log-sum-exp over the images
    of_images: torch.Tensor  # (I,), for an image's over the texts
    of_positives: torch.Tensor  # (T, 1), for a text's logit with each of its images


def match(image_embeds, text_embeds, text_to_image, image_ids, tile_size) -> Groups:
    """Check the arguments of a loss and number its positives."""
    if tile_size is not None and tile_size < 1:
        raise ValueError(
            f"tile_size is {tile_size}: give a number of rows, such as 1024, or None for no tiles"
        )
    n_texts = len(text_embeds)
    n_images = len(image_embeds)
    if text_to_image is None:
        if n_texts != n_images:
            raise ValueError(
                f"{n_texts} texts for {n_images} images: pass text_to_image to say which is whose"
            )
        text_to_image = torch.arange(n_texts, device=text_embeds.device)
    elif len(text_to_image) != n_texts:
        raise ValueError(
            f"text_to_image has {len(text_to_image)} rows for {n_texts} texts: give one image row per text"
        )

    if image_ids is None:
        image_ids = torch.arange(n_images, device=image_embeds.device)
    # image_ids [7, 3, 7] -> [1, 0, 1], so that group numbers can be counted with bincount
    _, of_images = image_ids.unique(return_inverse=True)
    return Groups(of_images[text_to_image], of_images)


def weigh(groups: Groups, dtype: torch.dtype) -> Weights:
    """Return the weights with which `contrastive_loss` adds its terms.

    Three texts, the first two of image 0, the third of image 1 and none of image 2: each text weighs 1/2 x
    1/3, each of the two described images 1/2 x 1/2, and image 2 nothing.
    """
    n_groups = len(groups.of_images)
    texts_of_group = groups.of_texts.bincount(minlength=n_groups)
    images_of_group = groups.of_images.bincount(minlength=n_groups)
    described = texts_of_group[groups.of_images] > 0

    n_texts = len(groups.of_texts)
    per_text = groups.of_texts.new_tensor(0.5 / n_texts, dtype=dtype)
    per_image = 0.5 / described.sum(dtype=dtype)

    # A text's target is uniform over its images, and an image's over its texts.
    from_text = per_text / images_of_group[groups.of_texts]
    from_image = per_image / texts_of_group[groups.of_texts]
    of_positives = from_text + from_image
    return Weights(per_text.expand(n_texts), described * per_image, of_positives[:, None])


__all__ = ["Groups", "Weights", "match", "weigh"]
