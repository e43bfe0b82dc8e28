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


def dense_look_ups(work):
    """Return how many gradients of look-ups were made in the size of their table."""
    with torch.profiler.profile() as profile:
        work()
    return [event.name for event in profile.events()].count("aten::embedding_dense_backward")


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


def test_no_look_up_makes_a_table():
    tower = Tower()
    assert dense_look_ups(lambda: one_backward(tower)) == len(GROUPS)
    tower.zero_grad()
    with gradients_by_row(tower):
        assert dense_look_ups(lambda: one_backward(tower)) == 0


def test_one_table_serves_all_steps():
    """A step is given the memory of the last one, cleared, also where that had accumulated several."""
    dense, by_row = Tower(), Tower()
    memory = set()
    with gradients_by_row(by_row):
        for groups in ([[2, 3], [9, 9, 4]], [[7]], [[5, 2], [5, 2], [8]], [[1, 6]]):
            for tower in (dense, by_row):
                tower.zero_grad()
                for ids in groups:
                    tower(torch.tensor([ids])).pow(3).sum().backward()
            assert torch.equal(by_row.words.weight.grad, dense.words.weight.grad)
            memory.add(by_row.words.weight.grad.data_ptr())
    assert len(memory) == 1


def test_the_model_is_as_it_was_afterwards():
    tower = Tower()
    with pytest.raises(KeyboardInterrupt), gradients_by_row(tower):
        raise KeyboardInterrupt
    assert not tower.words.sparse
    trained_on = copy.deepcopy(tower)
    one_backward(trained_on)
    assert not trained_on.words.weight.grad.is_sparse


def test_gradients_that_are_scaled_by_frequency_stay_dense():
    tables = [nn.Embedding(12, 6, scale_grad_by_freq=True) for _ in range(2)]
    tables[1].load_state_dict(tables[0].state_dict())
    tables[0](GROUPS[0]).pow(3).sum().backward()
    with gradients_by_row(tables[1]):
        tables[1](GROUPS[0]).pow(3).sum().backward()
    assert torch.equal(tables[0].weight.grad, tables[1].weight.grad)


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


def test_a_dense_gradient_between_those_of_rows_is_not_kept():
    """Regularize the whole table after a look-up: the next step begins from zeros all the same."""
    dense, by_row = Tower(), Tower()
    with gradients_by_row(by_row):
        for _ in range(2):
            for tower in (dense, by_row):
                tower.zero_grad()
                tower(GROUPS[1]).pow(3).sum().backward()
                tower.words.weight.pow(2).sum().backward()
            torch.testing.assert_close(by_row.words.weight.grad, dense.words.weight.grad)
            for tower in (dense, by_row):
                tower.zero_grad()
                one_backward(tower)
            torch.testing.assert_close(by_row.words.weight.grad, dense.words.weight.grad)
