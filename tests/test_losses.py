"""Check the losses against closed forms and against transformers' own."""

import math

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training import tiled_losses
from training.losses import (
    caption_losses,
    contrastive_loss,
    cosine_loss,
    distillation_loss,
    gather_rows,
    gather_unequal,
    sigmoid_loss,
)


def unit(rows, dim=8, seed=0):
    """Draw embeddings of unit length that take gradients."""
    drawn = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return normalize(drawn, dim=-1).requires_grad_()


def test_equals_the_models_own_loss(model, ragged_batch):
    outputs = model(**ragged_batch, return_loss=True)
    loss = contrastive_loss(outputs.image_embeds, outputs.text_embeds, model.logit_scale.exp())
    torch.testing.assert_close(loss, outputs.loss)


def test_collapsed_embeddings_give_log_of_the_batch():
    # Equal logits give a uniform softmax over 5: the cross-entropy is log 5 at any scale.
    same = normalize(torch.ones(5, 4), dim=-1)
    loss = contrastive_loss(same, same, torch.tensor(10.0))
    assert loss.item() == pytest.approx(math.log(5), abs=1e-5)


def test_several_texts_per_image_by_hand():
    """Texts 0 and 1 are of image 0: scores are chosen such that the sums can be written out."""
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    loss = contrastive_loss(images, texts, torch.tensor(2.0), text_to_image=torch.tensor([0, 0, 1]))
    rows = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    log_of_images = rows.log_softmax(1)
    by_text = -(log_of_images[[0, 1, 2], [0, 0, 1]]).mean()
    log_of_texts = rows.T.log_softmax(1)
    of_image_0 = (log_of_texts[0, 0] + log_of_texts[0, 1]) / 2  # the mean over its two texts
    of_image_1 = log_of_texts[1, 2]
    by_image = -(of_image_0 + of_image_1) / 2
    assert loss.item() == pytest.approx(((by_text + by_image) / 2).item())


def test_equal_images_are_not_pushed_apart():
    """Rows 0 and 2 show the same: swapping their captions changes nothing, and each attracts both texts."""
    images = unit(3, seed=1)
    texts = unit(3, seed=2)
    scale = torch.tensor(5.0)
    ids = torch.tensor([7, 8, 7])
    loss = contrastive_loss(images, texts, scale, image_ids=ids)
    swapped = contrastive_loss(images, texts[[2, 1, 0]], scale, image_ids=ids)
    torch.testing.assert_close(loss, swapped)
    (gradient,) = torch.autograd.grad(loss, texts)
    # A step against the gradient moves text 0 towards image 2 and away from image 1.
    assert (gradient[0] @ images[2]) < (gradient[0] @ images[1])
    assert not torch.isclose(loss, contrastive_loss(images, texts, scale))


def test_gradients_reach_everything():
    images = unit(4, seed=3)
    texts = unit(4, seed=4)
    scale = torch.tensor(3.0, requires_grad=True)
    contrastive_loss(images, texts, scale).backward()
    for tensor in (images, texts, scale):
        assert tensor.grad.abs().max() > 0

    with torch.no_grad():
        up = contrastive_loss(images.double(), texts.double(), scale.double() + 1e-4)
        down = contrastive_loss(images.double(), texts.double(), scale.double() - 1e-4)
    finite_difference = ((up - down) / 2e-4).item()
    assert scale.grad.item() == pytest.approx(finite_difference, rel=1e-3)


def test_numbers_must_agree():
    with pytest.raises(ValueError, match="4 texts for 3 images: pass text_to_image"):
        contrastive_loss(unit(3), unit(4), torch.tensor(1.0))
    with pytest.raises(ValueError, match="3 texts for 4 images: pass text_to_image"):
        contrastive_loss(unit(4), unit(3), torch.tensor(1.0))


def test_tiles_refuse_second_derivatives():
    """Their backward is no graph: a penalty on its gradients would be silently without effect."""
    embeds = unit(4)
    scale = torch.tensor(3.0)
    factor = torch.ones((), requires_grad=True)  # the gradient of the loss, to begin with, needs one too
    for loss in (
        contrastive_loss(embeds, embeds, scale, tile_size=2),
        sigmoid_loss(embeds, embeds, scale, -scale, tile_size=2),
    ):
        (gradient,) = torch.autograd.grad(factor * loss, embeds, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tile_size", [None, 1, 3])
def test_losses_are_the_formulas_of_their_docstrings(tile_size, dtype):
    """Images 1 and 2 have one id: both are right for the texts of either. The last image has no text."""
    images = unit(5, seed=1).to(dtype)
    texts = unit(6, seed=2).to(dtype)
    scale = torch.tensor(4.0, dtype=dtype)
    bias = torch.tensor(-3.0, dtype=dtype)
    owners = torch.tensor([3, 0, 1, 2, 2, 0])
    image_ids = torch.tensor([9, 4, 4, 6, 8])
    relations = {"text_to_image": owners, "image_ids": image_ids, "tile_size": tile_size}
    logits = scale * texts @ images.T
    labels = (image_ids[owners][:, None] == image_ids).to(dtype)

    by_text = cross_entropy(logits, labels / labels.sum(1, keepdim=True), reduction="none")
    embeds = {"image_embeds": images, "text_embeds": texts, "logit_scale": scale}
    torch.testing.assert_close(caption_losses(**embeds, **relations), by_text)
    of_image = labels.T[:4]
    by_image = cross_entropy(logits.T[:4], of_image / of_image.sum(1, keepdim=True))
    contrastive = contrastive_loss(**embeds, **relations)
    torch.testing.assert_close(contrastive, (by_text.mean() + by_image) / 2)

    expected = binary_cross_entropy_with_logits(logits + bias, labels, reduction="sum") / len(texts)
    torch.testing.assert_close(sigmoid_loss(**embeds, logit_bias=bias, **relations), expected)


# ---- Rows of several processes ----


@pytest.fixture
def be_one_of(monkeypatch):
    """Let this process be one of several, without any other: what the others send is given."""

    def be_one_of(n_processes, rank, sent):
        """Set up process `rank`; `sent` has, for each exchange, what every process sends in it."""
        sent = iter(sent)

        def all_gather(gathered, mine):
            of_all = next(sent)
            assert torch.equal(mine, of_all[rank])
            assert mine.dtype == of_all[rank].dtype
            for place, rows in zip(gathered, of_all, strict=True):
                place.copy_(rows)

        def all_reduce(mine):
            of_all = next(sent)
            assert torch.equal(mine, of_all[rank])
            mine.copy_(sum(of_all))

        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: n_processes)
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        monkeypatch.setattr(dist, "all_gather", all_gather)
        monkeypatch.setattr(dist, "all_reduce", all_reduce)

    return be_one_of


@pytest.mark.parametrize("n_processes,rank", [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_a_process_gets_all_rows_and_the_sum_of_its_rows_gradients(be_one_of, n_processes, rank):
    rows = torch.arange(2.0 * 4 * n_processes).reshape(-1, 2)
    gradients = [unit(len(rows), dim=2, seed=process).detach() for process in range(n_processes)]
    be_one_of(n_processes, rank, [rows.split(4), gradients])
    mine = rows.split(4)[rank].clone().requires_grad_()
    gathered = gather_rows(mine)
    assert torch.equal(gathered, rows)
    gathered.backward(gradients[rank])
    torch.testing.assert_close(mine.grad, sum(gradients).split(4)[rank])


@pytest.mark.parametrize("counts", [[5, 3, 2], [2, 5], [0, 4]])
@pytest.mark.parametrize("rank", [0, 1])
def test_processes_may_bring_unequally_many_rows(be_one_of, counts, rank):
    parts = [unit(count, dim=2, seed=count).detach() for count in counts]
    padded = torch.zeros(len(counts), max(counts), 2)
    for place, part in zip(padded, parts):
        place[: len(part)] = part
    be_one_of(len(counts), rank, [torch.tensor(counts), padded])
    assert torch.equal(gather_unequal(parts[rank]), torch.cat(parts))


def test_one_process_gathers_nothing(be_one_of):
    rows = unit(2)
    assert gather_rows(rows) is rows
    assert gather_unequal(rows) is rows
    be_one_of(1, 0, [])
    assert gather_rows(rows) is rows
    assert gather_unequal(rows) is rows


def test_distillation_is_the_mean_squared_error():
    student = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    teacher = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert distillation_loss(student, teacher).item() == pytest.approx((1 + 4 + 0 + 1) / 4)


def test_cosine_by_hand():
    """Lengths are free: an embedding twice as long costs nothing, one at a right angle costs 1."""
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0]], requires_grad=True)
    loss = cosine_loss(student, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert loss.item() == pytest.approx(0.5)  # the mean of 0 and 1
    loss.backward()
    # Along an embedding the gradient is zero, since its length does not matter.
    assert (student.grad * student).sum().item() == pytest.approx(0.0, abs=1e-6)
    assert student.grad.abs().max() > 0


# ---- Half precision at its extremes ----


def as_half(values, dtype):
    """Return values in half precision, which take gradients, and the same values in double precision."""
    half = values.detach().to(dtype).requires_grad_()
    return half, half.detach().double().requires_grad_()


def check_against_double(loss, halves, doubles):
    """Check value and gradients, to a few of half precision's own steps."""
    low = loss(*halves)
    high = loss(*doubles)
    assert low.isfinite()
    assert low.item() == pytest.approx(high.item(), rel=1e-4, abs=1e-5)
    low.backward()
    high.backward()
    for half, double in zip(halves, doubles):
        step = torch.finfo(half.dtype).eps
        tolerance = step * double.grad.abs().max().item() + torch.finfo(half.dtype).tiny
        torch.testing.assert_close(half.grad.double(), double.grad, rtol=2 * step, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tile_size", [None, 3])
@pytest.mark.parametrize("pairs", ["right", "wrong", "equal"])
@pytest.mark.parametrize("kind", ["contrastive", "sigmoid", "caption"])
def test_nothing_overflows_at_a_scale_of_100(dtype, tile_size, pairs, kind):
    """The exponential of a logit of 100 is 3e43, which no float16 holds, nor a float32."""
    images = torch.eye(8)
    texts = {"right": images, "wrong": images.roll(1, 0), "equal": images[:1].expand(8, 8)}[pairs]
    scale = torch.tensor(100.0)

    def loss(images, texts, scale):
        if kind == "contrastive":
            return contrastive_loss(images, texts, scale, tile_size=tile_size)
        if kind == "sigmoid":
            bias = torch.tensor(-10.0, dtype=scale.dtype)
            return sigmoid_loss(images, texts, scale, bias, tile_size=tile_size)
        owners = torch.arange(8)
        return caption_losses(images, texts, scale, text_to_image=owners, tile_size=tile_size).mean()

    made = [as_half(values, dtype) for values in (images, texts, scale)]
    check_against_double(loss, *zip(*made))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("length", [1e-3, 1.0, 3e3])
@pytest.mark.parametrize("loss", [distillation_loss, cosine_loss])
def test_long_embeddings_do_not_overflow(dtype, length, loss):
    """The square of 3,000 is infinite in float16."""
    student = length * unit(4, seed=5).detach()
    teacher = length * unit(4, seed=6).detach()
    made = [as_half(values, dtype) for values in (student, teacher)]
    check_against_double(loss, *zip(*made))


# ---- Devices without float64 ----


class Dtypes(TorchDispatchMode):
    """Notes the data type of every tensor that is computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **kwargs or {})
        self.seen |= {value.dtype for value in tree_leaves(results) if isinstance(value, torch.Tensor)}
        return results


def test_mps_alone_sums_in_float32():
    dtypes = {name: tiled_losses._widest_dtype(torch.device(name)) for name in ("cpu", "cuda", "meta", "mps")}
    assert dtypes.pop("mps") == torch.float32
    assert set(dtypes.values()) == {torch.float64}


@pytest.mark.parametrize("loss", [contrastive_loss, sigmoid_loss])
def test_tiles_need_no_float64_where_there_is_none(loss, monkeypatch):
    def compute(tile_size):
        generator = torch.Generator().manual_seed(0)
        inputs = [normalize(torch.randn(23, 8, generator=generator), dim=-1) for _ in range(2)]
        inputs += [torch.tensor(9.0)] if loss is contrastive_loss else [torch.tensor(9.0), torch.tensor(-4.0)]
        for value in inputs:
            value.requires_grad_(True)
        with Dtypes() as dtypes:
            result = loss(*inputs, tile_size=tile_size)
            result.backward()
        return dtypes.seen, [result.detach(), *(value.grad for value in inputs)]

    expected = compute(None)[1]
    assert torch.float64 in compute(5)[0]
    monkeypatch.setattr(tiled_losses, "_widest_dtype", lambda device: torch.float32)
    seen, found = compute(5)
    assert torch.float32 in seen and torch.float64 not in seen
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)
