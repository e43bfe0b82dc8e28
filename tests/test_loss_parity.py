"""Check every switch of the losses against the plain loss: value and all gradients, with dropout on."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from training.gradient_cache import cached_loss
from training.losses import contrastive_loss, sigmoid_loss

# No multiples of the tile size 5 or the chunk size 4: the last tile and the last chunk are smaller.
N_IMAGES = 22
N_TEXTS = 37
SWITCHES = {
    "tiled": {"tile_size": 5},
    "gradient cache": {"chunk": 4},
    "all together": {"tile_size": 5, "chunk": 4},
}
LOSSES = ["InfoNCE", "InfoNCE, several texts an image", "sigmoid", "sigmoid, several texts an image"]


def tower():
    return nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 8))


class Encoder(nn.Module):
    """Two towers with dropout, a temperature and a bias: enough of a CLIP to go wrong in every way."""

    def __init__(self):
        super().__init__()
        self.images = tower()
        self.texts = tower()
        self.scale = nn.Parameter(torch.tensor(2.6))
        self.bias = nn.Parameter(torch.tensor(-2.0))

    def forward(self, images, texts):
        image_embeds = normalize(self.images(images), dim=-1)
        text_embeds = normalize(self.texts(texts), dim=-1)
        return image_embeds, text_embeds


def batch(several):
    """Draw images and texts, and with `several` texts an image the relations between them as well."""
    generator = torch.Generator().manual_seed(1)
    n_texts = N_TEXTS if several else N_IMAGES
    images = torch.randn(N_IMAGES, 12, generator=generator)
    texts = torch.randn(n_texts, 12, generator=generator)
    if not several:
        return images, texts, {}

    # One text for each image but the last, which has none, and 16 more texts of any of them.
    more = torch.randint(N_IMAGES - 1, (16,), generator=generator)
    text_to_image = torch.cat([torch.arange(N_IMAGES - 1), more])
    image_ids = torch.randint(15, (N_IMAGES,), generator=generator)  # 15 ids for 22 images: some are equal
    image_ids[-1] = 99
    return images, texts, {"text_to_image": text_to_image, "image_ids": image_ids}


def as_chunks(image_parts, text_parts):
    return [{"images": images, "texts": texts} for images, texts in zip(image_parts, text_parts)]


def embed(model, chunks):
    """Return the image and the text embeddings of all chunks, joined."""
    image_parts = []
    text_parts = []
    for chunk in chunks:
        image_embeds, text_embeds = model(**chunk)
        image_parts.append(image_embeds)
        text_parts.append(text_embeds)
    return torch.cat(image_parts), torch.cat(text_parts)


def measure(loss_name, dtype, chunk=None, tile_size=None, scale=1.0):
    """Return the loss and the gradients of every parameter.

    Dropout is drawn chunk by chunk in any case, with a gradient cache and without.
    """
    torch.manual_seed(0)
    model = Encoder().train()
    images, texts, relations = batch("several" in loss_name)
    n_chunks = -(-len(texts) // 4)
    chunks = as_chunks(images.tensor_split(n_chunks), texts.tensor_split(n_chunks))
    assert len({len(part["texts"]) for part in chunks}) == 2  # chunks are uneven

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
            value = loss(*embed(model, chunks), model.scale, model.bias)
    torch.manual_seed(99)  # what is drawn between forward and backward must not matter
    (value * scale).backward()

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert len(gradients) == 10  # weight and bias of two linear layers a tower, the scale and the bias
    for name, gradient in gradients.items():
        assert gradient is not None, name
        if not (name == "bias" and loss_name.startswith("InfoNCE")):  # InfoNCE has no bias
            assert gradient.abs().max() > 0, name
    return value.detach(), gradients


@pytest.mark.parametrize("loss_name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16 autocast"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_parity(loss_name, dtype, switch):
    value, gradients = measure(loss_name, dtype)
    other, others = measure(loss_name, dtype, **SWITCHES[switch])
    # Sums in another order differ by a few last bits: 1e-7 each in float32, 4e-3 of an embedding in bfloat16,
    # in the plain loss too.
    tolerance = 1e-5 if dtype is torch.float32 else 1e-2
    assert other.item() == pytest.approx(value.item(), rel=1e-5)
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() <= tolerance * gradient.norm(), name


@pytest.mark.parametrize("loss_name", LOSSES)
def test_an_outer_factor_reaches_every_gradient(loss_name):
    """Gradient accumulation and loss scaling apply such a factor."""
    _, gradients = measure(loss_name, torch.float32)
    _, scaled = measure(loss_name, torch.float32, chunk=4, tile_size=5, scale=0.25)
    for name, gradient in gradients.items():
        assert (scaled[name] - gradient * 0.25).norm() <= 1e-5 * gradient.norm(), name


def test_dropout_is_on(tmp_path):
    """Two forwards differ: else the parity test could not tell that a chunk draws the same twice."""
    torch.manual_seed(0)
    model = Encoder().train()
    images, texts, _ = batch(False)
    first, _ = model(images, texts)
    second, _ = model(images, texts)
    assert (first - second).abs().max() > 0.05


def test_two_losses_before_one_backward():
    """Nothing is kept where a second forward could overwrite it."""
    torch.manual_seed(0)
    model = Encoder().train()
    images, texts, _ = batch(False)
    chunks = as_chunks(images.split(6), texts.split(6))
    backwards = chunks[::-1]

    def encode(chunk):
        return model(**chunk)

    def loss(image_embeds, text_embeds, scale):
        return contrastive_loss(image_embeds, text_embeds, scale.exp())

    torch.manual_seed(3)
    one = cached_loss(encode, chunks, loss, [model.scale])
    two = cached_loss(encode, backwards, loss, [model.scale])
    (one + 2 * two).backward()
    together = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            together[name] = parameter.grad.clone()

    model.zero_grad()
    torch.manual_seed(3)
    for order, weight in ((chunks, 1), (backwards, 2)):
        (weight * loss(*embed(model, order), model.scale)).backward()

    names = {name for name, _ in model.named_parameters()}
    assert together.keys() == names - {"bias"}  # which this loss does not use
    for name, gradient in together.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, atol=1e-6, rtol=1e-5)


def test_only_the_last_chunk_talks_to_other_processes():
    """It takes along what the loss needs beside embeddings, and backward leaves the random numbers alone."""
    encoder = nn.Linear(2, 2)
    scale = nn.Parameter(torch.tensor(1.5))
    chunks = torch.randn(300, 1, 2, generator=torch.Generator().manual_seed(0)).unbind()
    events = []

    @contextmanager
    def no_sync():
        events.append("alone")
        yield
        events.append("together")

    def encode(chunk):
        torch.rand(1)
        assert scale.grad is None
        events.append(chunk)
        return (encoder(chunk),)

    def loss(embeds, scale):
        return (scale * embeds.square()).sum()

    value = cached_loss(encode, chunks, loss=loss, parameters=[scale], no_sync=no_sync)
    assert events == list(chunks)
    events.clear()
    before = torch.get_rng_state()
    value.backward()
    assert torch.equal(torch.get_rng_state(), before)

    *alone, last = chunks
    expected = []
    for chunk in alone:
        expected += ["alone", chunk, "together"]
    assert events == [*expected, last]
    gradients = [encoder.weight.grad, encoder.bias.grad, scale.grad]
    inputs = [encoder.weight, encoder.bias, scale]
    plain = torch.autograd.grad(loss(encoder(torch.cat(chunks)), scale), inputs)
    torch.testing.assert_close(gradients, list(plain))


def test_a_row_of_dissimilar_pairs_does_not_underflow():
    """At a scale of 100 a fixed maximum would leave a sum of zero for a text that is far from every image."""
    # Text 5 has logits of -41 with every image. Less a fixed maximum of 100, exp(-141) is 0 in float32.
    images = torch.eye(6)
    texts = torch.cat([torch.eye(6)[:5], -torch.ones(1, 6) / 6**0.5])
    scale = torch.tensor(100.0)
    plain = contrastive_loss(images, texts, scale, tile_size=None)
    tiled = contrastive_loss(images, texts, scale, tile_size=2)
    assert plain.isfinite()
    assert tiled.item() == pytest.approx(plain.item(), abs=2e-5)


def test_a_frozen_side_gets_no_gradient():
    images = normalize(torch.randn(9, 4), dim=-1)
    texts = normalize(torch.randn(9, 4), dim=-1).requires_grad_()
    contrastive_loss(images, texts, torch.tensor(5.0), tile_size=2).backward()
    assert images.grad is None
    assert texts.grad.abs().max() > 0


def test_what_does_not_learn_is_left_alone():
    """A frozen encoder gets no gradient, and a parameter that the loss does not use gets zero."""
    model = Encoder().requires_grad_(False)
    model.scale.requires_grad_()
    model.bias.requires_grad_()
    images, texts, _ = batch(False)
    chunks = as_chunks(images.split(6), texts.split(6))

    def encode(chunk):
        return model(**chunk)

    def loss(image_embeds, text_embeds, scale, bias):
        return contrastive_loss(image_embeds, text_embeds, scale.exp())

    value = cached_loss(encode, chunks, loss, [model.scale, model.bias])
    value.backward()
    assert model.scale.grad.abs() > 0
    assert model.bias.grad == 0
    assert model.images[0].weight.grad is None


@pytest.mark.parametrize("tile_size", [None, 2])
def test_a_scale_of_shape_1_is_accepted(tile_size):
    """SigLIP stores its scale and bias in this shape."""
    images = torch.eye(3)
    scale = torch.tensor([2.0], requires_grad=True)
    sigmoid_loss(images, images, scale, torch.tensor([-1.0]), tile_size=tile_size).backward()
    assert scale.grad.shape == (1,)


@pytest.mark.parametrize("loss_name", LOSSES)
def test_gradcheck(loss_name):
    """Analytic gradients of the tiled losses are those of finite differences, in float64."""
    generator = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(5, 3, generator=generator, dtype=torch.float64), dim=-1)
    texts = normalize(torch.randn(5, 3, generator=generator, dtype=torch.float64), dim=-1)
    scale = torch.tensor(3.0, dtype=torch.float64)
    bias = torch.tensor(-1.0, dtype=torch.float64)
    inputs = [images, texts, scale, bias]
    for tensor in inputs:
        tensor.requires_grad_()
    ids = torch.tensor([0, 1, 0, 2, 2]) if "several" in loss_name else None

    def loss(images, texts, scale, bias):
        if loss_name.startswith("sigmoid"):
            return sigmoid_loss(images, texts, scale, bias, image_ids=ids, tile_size=2)
        return contrastive_loss(images, texts, scale, image_ids=ids, tile_size=2)

    assert torch.autograd.gradcheck(loss, inputs)


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
