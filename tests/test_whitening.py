"""Whitening of a text encoder's embeddings: its formula, its shrinkage, and what it refuses."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from training.whitening import fit_whitening


def draw_embeddings(n_texts, width=6, seed=0):
    """Draw embeddings that vary much in some directions, about a mean that is not 0."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(width, width)) * np.logspace(0, 2, width)
    return torch.from_numpy(random.normal(size=(n_texts, width)) @ mixed.T + 10)


def test_many_texts_become_white():
    embeddings = draw_embeddings(1_000_000)
    whitened = fit_whitening(embeddings)(embeddings)
    torch.testing.assert_close(whitened.mean(0), torch.zeros(6).double(), rtol=0, atol=1e-6)
    covariance = torch.cov(whitened.T)
    off_diagonal = covariance - covariance.diag().diag()
    assert off_diagonal.abs().max() < 0.05 * covariance.diag().min()
    assert covariance.diag().max() < 1.2 * covariance.diag().min()


def test_the_map_is_the_root_of_the_shrunk_covariance():
    embeddings = draw_embeddings(40)
    found = fit_whitening(embeddings)
    covariance = np.cov(embeddings.numpy().T)
    shrunk = covariance / (np.trace(covariance) / 6) + (4 * 6 / 40) * np.eye(6)
    np.testing.assert_allclose(found.weight @ found.weight, np.linalg.inv(shrunk), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.weight, found.weight.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found(embeddings).mean(0), np.zeros(6), rtol=0, atol=1e-9)


def test_fewer_texts_are_changed_less():
    """The ratio of the largest to the least factor says how much is whitened: 1 is not at all."""
    ratios = []
    for n_texts in (8, 80, 8000):
        factors = torch.linalg.eigvalsh(fit_whitening(draw_embeddings(n_texts)).weight)
        ratios.append((factors[-1] / factors[0]).item())
    assert 1 < ratios[0] < ratios[1] < ratios[2]


def test_a_common_factor_changes_nothing():
    embeddings = draw_embeddings(40)
    torch.testing.assert_close(fit_whitening(100 * embeddings).weight, fit_whitening(embeddings).weight)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (torch.ones(1, 4), "1 text cannot be whitened"),
        (torch.ones(5, 4), "all 5 texts have one embedding"),
        (torch.tensor([[1.0, float("nan")], [2.0, 3.0]]), "not finite"),
    ],
)
def test_what_cannot_be_whitened_is_refused(embeddings, message):
    with pytest.raises(InputError, match=message):
        fit_whitening(embeddings)
