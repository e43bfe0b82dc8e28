"""Gradients of embeddings by row against dense ones: values, accumulation, and the model afterwards."""

import copy

import pytest
import torch
from torch import nn

from training.embedding_gradients import gradients_by_row

# Two groups of texts with words in common, and the padding.
GROUPS = [torch.tensor([[4, 7, 7, 1], [2, 4, 9, 3]]), torch.tensor([[7, 2]])]


class Tower(nn.Module):
    """A vocabulary, positions that do not learn, and a matrix that is tied to the vocabulary on demand."""

    def __init__(self, tied: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(12, 6, padding_idx=1)
        self.positions = nn.Embedding(8, 6).requires_grad_(False)
        self.tied = tied

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states = self.words(ids) + self.positions.weight[: ids.shape[1]]
        return nn.functional.linear(states, self.words.weight) if self.tied else states


def one_backward(tower):
    sum(tower(ids).pow(3).sum() for ids in GROUPS).backward()


def chunk_by_chunk(tower):
    for ids in GROUPS:
        tower(ids).pow(3).sum().backward()


def checkpointed(tower):
    for ids in GROUPS:
        torch.utils.checkpoint.checkpoint(tower, ids, use_reentrant=False).pow(3).sum().backward()


@pytest.mark.parametrize("step", [one_backward, chunk_by_chunk, checkpointed])
@pytest.mark.parametrize("tied", [False, True])
def test_equal_to_dense_gradients(step, tied):
    dense, by_row = Tower(tied), Tower(tied)
    with gradients_by_row(by_row):
        for _ in range(2):  # the second is added to the first
            step(dense)
            step(by_row)
            assert not by_row.words.weight.grad.is_sparse
            torch.testing.assert_close(by_row.words.weight.grad, dense.words.weight.grad)
    assert by_row.words.weight.grad[1].abs().max() == 0 or tied  # padding learns nothing
    assert by_row.positions.weight.grad is None


def test_no_look_up_makes_a_table(monkeypatch):
    """Watch what reaches the vocabulary: rows alone."""
    tower = Tower()
    shapes = []
    with gradients_by_row(tower):
        tower.words.weight.register_hook(lambda gradient: shapes.append(gradient._values().shape))
        one_backward(tower)
    n_words = sum(ids.numel() for ids in GROUPS)
    assert sum(shape[0] for shape in shapes) <= n_words


def test_the_model_is_as_it_was_afterwards():
    tower = Tower()
    with pytest.raises(KeyboardInterrupt), gradients_by_row(tower):
        raise KeyboardInterrupt
    assert not tower.words.sparse
    trained_on = copy.deepcopy(tower)
    one_backward(trained_on)
    assert not trained_on.words.weight.grad.is_sparse


def test_a_table_that_is_sparse_already_is_left_so():
    tower = Tower()
    tower.words.sparse = True
    with gradients_by_row(tower):
        one_backward(tower)
        assert tower.words.weight.grad.is_sparse
    assert tower.words.sparse


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_steps_as_with_dense_gradients(optimizer):
    dense, by_row = Tower(), Tower()
    steps = [optimizer([tower.words.weight], lr=0.1, weight_decay=0.1) for tower in (dense, by_row)]
    with gradients_by_row(by_row):
        for _ in range(3):
            for tower, step in zip((dense, by_row), steps, strict=True):
                step.zero_grad()
                one_backward(tower)
                nn.utils.clip_grad_norm_([tower.words.weight], 1.0)
                step.step()
    torch.testing.assert_close(by_row.words.weight, dense.words.weight)
