"""Check the losses against closed forms and against transformers' own."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from training.losses import contrastive_loss, cosine_loss, distillation_loss


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
