"""Check the losses in tiles at their extremes against the plain formulas in double precision."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from training import tiled_losses
from training.losses import contrastive_loss, sigmoid_loss
from training.positives import Groups


def unit(rows, seed, dim=16):
    return normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def wide():
    """Return pairs whose cosines go from -1 to 1: a text equal to its image, one opposite to every image."""
    images = torch.cat([unit(1, 0).expand(9, -1), unit(10, 1)])
    texts = torch.cat([images[:5], -images[:9], unit(5, 2)])
    return images, texts, {}


def grouped():
    """Return pairs with no positives in most tiles: all texts are of the first and the last images."""
    owners = torch.tensor([0, 0, 18, 0, 18, 17, 0, 0, 1, 18, 18, 0])
    image_ids = torch.arange(19)
    image_ids[17] = 0
    return unit(19, 3), unit(12, 4), {"text_to_image": owners, "image_ids": image_ids}


def paired():
    images = unit(19, 5)
    return images, normalize(images + 0.2 * unit(19, 6), dim=-1), {}


def compute(loss, inputs, relations, tile_size):
    """Return the value and all gradients."""
    inputs = [value.clone().requires_grad_() for value in inputs]
    value = 0.3 * loss(*inputs, **relations, tile_size=tile_size)
    value.backward()
    return [value.detach(), *(each.grad for each in inputs)]


def check_against_double(loss, inputs, relations):
    found = compute(loss, inputs, relations, tile_size=4)
    expected = compute(loss, [value.double() for value in inputs], relations, tile_size=None)
    # A logit near 100 has steps of 8e-6 in float32, and so have its exponential and its gradient, whose terms
    # are about 0.1 even where they cancel.
    step = 1e-6 + inputs[2].item() * torch.finfo(torch.float32).eps
    for value, wanted in zip(found, expected, strict=True):
        largest = max(0.1, wanted.abs().max().item())
        torch.testing.assert_close(value.double(), wanted, rtol=3 * step, atol=3 * step * largest)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 60.0, 75.0, 100.0, 300.0])
@pytest.mark.parametrize("pairs", [wide, grouped, paired])
def test_contrastive_at_any_scale(pairs, scale):
    images, texts, relations = pairs()
    check_against_double(contrastive_loss, (images, texts, torch.tensor(scale)), relations)


@pytest.mark.parametrize("scale", [0.0, 10.0, 100.0])
@pytest.mark.parametrize("pairs", [wide, grouped, paired])
def test_sigmoid_at_any_scale(pairs, scale):
    images, texts, relations = pairs()
    inputs = (images, texts, torch.tensor(scale), torch.tensor(-10.0))
    check_against_double(sigmoid_loss, inputs, relations)


@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize("pairs", [wide, grouped, paired])
def test_both_ways_to_the_softmaxes_are_equal(monkeypatch, pairs, scale):
    images, texts, relations = pairs()
    monkeypatch.setattr(tiled_losses, "_is_complete", lambda *sums: False)
    check_against_double(contrastive_loss, (images, texts, torch.tensor(scale)), relations)


@pytest.fixture
def ways(monkeypatch):
    """Return the list of the ways by which backward computes the softmaxes."""
    taken = []
    for name in ("_shared_softmaxes", "_separate_softmaxes"):
        way = getattr(tiled_losses, name)

        def note(*args, name=name, way=way):
            taken.append(name)
            return way(*args)

        monkeypatch.setattr(tiled_losses, name, note)
    return taken


@pytest.mark.parametrize("cosine", [-0.1, -0.3, -0.5, -0.53, -0.54, -0.55, -0.56, -0.57])
def test_around_the_switch_at_a_scale_of_100(ways, cosine):
    """The last text has this cosine with all three images, and the others equal theirs."""
    images = torch.eye(3, 4)
    rest = math.sqrt(1 - 3 * cosine**2)
    far = torch.tensor([[cosine, cosine, cosine, rest]])
    texts = torch.cat([images[:2], far])
    check_against_double(contrastive_loss, (images, texts, torch.tensor(100.0)), {})
    # The largest logit is put at 87.3 - 2 log 3 - 2 = 83.1, which is 16.9 below 100. Three exponentials are
    # complete above 3 x 3 x 2**-126 / 2**-23 = exp(-70.3), and so where 100 x cosine > -70.3 - log 3 + 16.9.
    expected = "_shared_softmaxes" if cosine > -0.545 else "_separate_softmaxes"
    assert ways == [expected]


@pytest.mark.parametrize("pairs", [grouped, paired])
def test_ordinary_pairs_need_one_exponential_at_a_scale_of_100(ways, pairs):
    images, texts, relations = pairs()
    compute(contrastive_loss, (images, texts, torch.tensor(100.0)), relations, tile_size=4)
    assert ways == ["_shared_softmaxes"]


def test_long_embeddings_are_bounded_by_their_lengths(ways):
    """Their logits are up to 400: less the scale alone, the exponential would be infinite."""
    images = 20 * unit(9, 7)
    texts = 20 * unit(9, 8)
    check_against_double(contrastive_loss, (images, texts, torch.tensor(1.0)), {})
    assert ways == ["_separate_softmaxes"]


def test_nan_comes_through():
    images = unit(9, 7)
    texts = unit(9, 8)
    texts[3, 2] = torch.nan
    loss, *gradients = compute(contrastive_loss, (images, texts, torch.tensor(10.0)), {}, tile_size=4)
    assert loss.isnan()
    assert all(gradient.isnan().any() for gradient in gradients)


def test_groups_count_and_sum_their_texts_and_images():
    groups = Groups(torch.tensor([0, 2, 0]), torch.tensor([0, 1, 0, 2]))
    assert groups.count_positives() == 5  # texts 0 and 2 have two images each, text 1 one
    assert groups.sum_texts(torch.tensor([[1.0], [2.0], [4.0]])).tolist() == [[5], [0], [2], [0]]
    assert groups.sum_images(torch.tensor([[1.0], [2.0], [4.0], [8.0]])).tolist() == [[5], [2], [8], [0]]
