"""Every switch of the losses against the plain loss of one process: value and all gradients, dropout on, uneven last chunk."""

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from training.gradient_cache import cached_loss
from training.losses import contrastive_loss, sigmoid_loss

N_IMAGES, N_TEXTS = 22, 37
SWITCHES = {
    "tiled": {"tile_size": 5},
    "gradient cache": {"chunk": 4},
    "all together": {"tile_size": 5, "chunk": 4},
}
LOSSES = ("InfoNCE", "InfoNCE, several texts an image", "sigmoid", "sigmoid, several texts an image")


class Encoder(nn.Module):
    """Two towers with dropout and a temperature; enough of a CLIP to go wrong in every way."""

    def __init__(self):
        super().__init__()
        self.images, self.texts = (
            nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 8)) for _ in range(2)
        )
        self.scale, self.bias = nn.Parameter(torch.tensor(2.6)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, images, texts):
        return normalize(self.images(images), dim=-1), normalize(self.texts(texts), dim=-1)


def batch(several):
    generator = torch.Generator().manual_seed(1)
    n_texts = N_TEXTS if several else N_IMAGES
    images, texts = (
        torch.randn(N_IMAGES, 12, generator=generator),
        torch.randn(n_texts, 12, generator=generator),
    )
    relations = {}
    if several:
        relations["text_to_image"] = torch.cat(
            [torch.arange(N_IMAGES - 1), torch.randint(N_IMAGES - 1, (16,), generator=generator)]
        )
        relations["image_ids"] = torch.randint(
            15, (N_IMAGES,), generator=generator
        )  # some show the same; the last has no text
        relations["image_ids"][-1] = 99
    return images, texts, relations


def measure(loss_name, dtype, chunk=None, tile_size=None, scale=1.0):
    """The loss and the gradients of every parameter, with `chunk` as the unit in which dropout is drawn in any case."""
    torch.manual_seed(0)
    model = Encoder().train()
    images, texts, relations = batch("several" in loss_name)
    n_chunks = -(-len(texts) // 4)
    chunks = [
        {"images": i, "texts": t} for i, t in zip(images.tensor_split(n_chunks), texts.tensor_split(n_chunks))
    ]
    assert len({len(part["texts"]) for part in chunks}) == 2  # an uneven one among them

    def loss(image_embeds, text_embeds, logit_scale, logit_bias):
        switches = relations | {"tile_size": tile_size}
        if loss_name.startswith("sigmoid"):
            return sigmoid_loss(image_embeds, text_embeds, logit_scale.exp(), logit_bias, **switches)
        return contrastive_loss(image_embeds, text_embeds, logit_scale.exp(), **switches) + 0 * logit_bias

    def encode(chunk):
        return model(**chunk)

    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        if chunk:
            value = cached_loss(encode, chunks, loss, [model.scale, model.bias])
        else:
            embeds = [torch.cat(parts) for parts in zip(*(encode(part) for part in chunks))]
            value = loss(*embeds, model.scale, model.bias)
    torch.manual_seed(99)  # what is drawn between forward and backward must not matter
    (value * scale).backward()
    return value.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("loss_name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16 autocast"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_parity(loss_name, dtype, switch):
    value, gradients = measure(loss_name, dtype)
    other, others = measure(loss_name, dtype, **SWITCHES[switch])
    # Sums in another order differ by a few last bits: 1e-7 each in float32, 4e-3 of an embedding in bfloat16, in the plain loss too.
    tolerance = 1e-5 if dtype is torch.float32 else 1e-2
    assert other.item() == pytest.approx(value.item(), rel=1e-5)
    for name, gradient in gradients.items():
        if name == "bias" and loss_name.startswith("InfoNCE"):
            continue
        assert gradient.abs().max() > 0, name
        assert (others[name] - gradient).norm() <= tolerance * gradient.norm(), name


@pytest.mark.parametrize("loss_name", LOSSES)
def test_an_outer_factor_reaches_every_gradient(loss_name):
    """As gradient accumulation and loss scaling apply it."""
    _, gradients = measure(loss_name, torch.float32)
    _, scaled = measure(loss_name, torch.float32, chunk=4, tile_size=5, scale=0.25)
    for name, gradient in gradients.items():
        assert (scaled[name] - gradient * 0.25).norm() <= 1e-5 * gradient.norm(), name


def test_dropout_is_on(tmp_path):
    """Guards the parity test: the second forward of a chunk must draw what the first drew, and drawing must matter."""
    torch.manual_seed(0)
    model = Encoder().train()
    images, texts, _ = batch(False)
    first, second = (model(images, texts)[0] for _ in range(2))
    assert (first - second).abs().max() > 0.05


def test_two_losses_before_one_backward():
    """Nothing is kept where a second forward could overwrite it."""
    torch.manual_seed(0)
    model = Encoder().train()
    images, texts, _ = batch(False)
    chunks = [{"images": i, "texts": t} for i, t in zip(images.split(6), texts.split(6))]

    def loss(image_embeds, text_embeds, scale):
        return contrastive_loss(image_embeds, text_embeds, scale.exp())

    torch.manual_seed(3)
    one = cached_loss(lambda chunk: model(**chunk), chunks, loss, [model.scale])
    two = cached_loss(lambda chunk: model(**chunk), chunks[::-1], loss, [model.scale])
    (one + 2 * two).backward()
    together = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()
    torch.manual_seed(3)
    for order, weight in ((chunks, 1), (chunks[::-1], 2)):
        embeds = [torch.cat(parts) for parts in zip(*(model(**chunk) for chunk in order))]
        (weight * loss(*embeds, model.scale)).backward()
    assert together.keys() == {name for name, _ in model.named_parameters()} - {
        "bias"
    }  # which this loss does not use
    for name, gradient in together.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, atol=1e-6, rtol=1e-5)


def test_a_row_of_dissimilar_pairs_does_not_underflow():
    """At a scale of 100 a fixed maximum would leave a sum of zero for a text that is far from every image."""
    images = torch.eye(6)
    texts = torch.cat([torch.eye(6)[:5], -torch.ones(1, 6) / 6**0.5])
    plain, tiled = (
        contrastive_loss(images, texts, torch.tensor(100.0), tile_size=size) for size in (None, 2)
    )
    assert plain.isfinite()
    assert tiled.item() == pytest.approx(plain.item(), abs=2e-5)


def test_a_frozen_side_gets_no_gradient():
    images, texts = (
        normalize(torch.randn(9, 4), dim=-1),
        normalize(torch.randn(9, 4), dim=-1).requires_grad_(),
    )
    contrastive_loss(images, texts, torch.tensor(5.0), tile_size=2).backward()
    assert images.grad is None
    assert texts.grad.abs().max() > 0


def test_what_does_not_learn_is_left_alone():
    """A frozen encoder, and a parameter that the loss does not use."""
    model = Encoder().requires_grad_(False)
    model.scale.requires_grad_()
    model.bias.requires_grad_()
    images, texts, _ = batch(False)
    chunks = [{"images": i, "texts": t} for i, t in zip(images.split(6), texts.split(6))]
    value = cached_loss(
        lambda chunk: model(**chunk),
        chunks,
        lambda i, t, s, b: contrastive_loss(i, t, s.exp()),
        [model.scale, model.bias],
    )
    value.backward()
    assert model.scale.grad.abs() > 0
    assert model.bias.grad == 0
    assert model.images[0].weight.grad is None


@pytest.mark.parametrize("tile_size", [None, 2])
def test_a_scale_of_one_row_will_do(tile_size):
    """SigLIP keeps its scale and bias so."""
    images, scale = torch.eye(3), torch.tensor([2.0], requires_grad=True)
    sigmoid_loss(images, images, scale, torch.tensor([-1.0]), tile_size=tile_size).backward()
    assert scale.grad.shape == (1,)


@pytest.mark.parametrize("loss_name", LOSSES)
def test_gradcheck(loss_name):
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        normalize(torch.randn(5, 3, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()
        for _ in range(2)
    )
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (3.0, -1.0))
    ids = torch.tensor([0, 1, 0, 2, 2]) if "several" in loss_name else None

    def loss(images, texts, scale, bias):
        if loss_name.startswith("sigmoid"):
            return sigmoid_loss(images, texts, scale, bias, image_ids=ids, tile_size=2)
        return contrastive_loss(images, texts, scale, image_ids=ids, tile_size=2)

    assert torch.autograd.gradcheck(loss, (images, texts, scale, bias))


def test_bad_arguments_are_refused():
    images = torch.eye(3)
    texts = torch.eye(4)[:, :3]
    scale = torch.tensor(1.0)
    with pytest.raises(ValueError, match="tile_size is 0: give a number of rows, such as 1024"):
        contrastive_loss(images, images, scale, tile_size=0)
    with pytest.raises(ValueError, match="4 texts for 3 images: pass text_to_image"):
        sigmoid_loss(images, texts, scale, scale)
    with pytest.raises(ValueError, match="text_to_image has 2 rows for 4 texts"):
        contrastive_loss(images, texts, scale, text_to_image=torch.tensor([0, 1]))
