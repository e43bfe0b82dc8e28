"""What is said of an ill training, and what is not said of a healthy one."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from training.monitoring import FrozenWeights, Watch


def batch(n_cells=8, n_texts=8):
    # Texts of 1, 2, 3, 4, 5, 6, 6 and 6 tokens.
    mask = (torch.arange(6)[None] < torch.arange(1, n_texts + 1)[:, None].clamp(max=6)).long()
    return {
        "attention_mask": mask,
        "text_rows": torch.arange(n_cells) % n_texts,
        "row_ids": torch.arange(n_cells),
    }


def test_figures_by_hand():
    watch, vectors = Watch(), torch.eye(8)
    watch.see(batch(), [batch()], vectors, vectors)
    # Every text is nearest to its own image in the first batch, and to its neighbour's in the second.
    watch.see(batch(), [batch()], vectors, vectors.roll(1, dims=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = watch.report(progress=1.0)
    # The mean of the eight unit vectors has 1/8 in each dimension.
    padding = (5 + 4 + 3 + 2 + 1) / 48
    assert figures == pytest.approx(
        {"padding": padding, "distinct": 1.0, "spread": 1 - 8 * (1 / 8) ** 2, "nearest": 0.5}, abs=1e-4
    )
    # A report begins anew.
    assert watch.report(progress=1.0) == {}


def test_rows_that_show_the_same_are_right_answers():
    watch, inputs = Watch(), batch()
    # Rows 0 and 1 show the same, 2 and 3, and so on; the nearest image is always the other one.
    inputs["row_ids"] = torch.arange(8) // 2
    watch.see(inputs, [inputs], torch.eye(8), torch.eye(8)[[1, 0, 3, 2, 5, 4, 7, 6]])
    assert watch.report(0.0)["nearest"] == 1.0


def test_collapse_is_told_of_after_the_beginning():
    watch, same = Watch(), normalize(torch.ones(8, 4) + 1e-3 * torch.randn(8, 4), dim=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.see(batch(), [batch()], same, same)
        # Before a fifth of the steps an untrained tower may give one embedding for all.
        watch.report(progress=0.1)
    watch.see(batch(), [batch()], same, same)
    with pytest.warns(
        UserWarning, match="spread is 0.0: all texts get almost the same embedding. Lower learning_rate"
    ):
        watch.report(progress=0.5)


def test_repeats_are_told_of():
    watch = Watch()
    # 3 distinct texts of 8 captions: 0.375.
    watch.see(batch(n_texts=3), [batch(n_texts=3)], torch.eye(8), torch.eye(8))
    with pytest.warns(UserWarning, match="distinct is 0.375: most captions of a batch are repeats"):
        watch.report(progress=0.0)


def test_a_frozen_weight_that_moves_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    frozen = FrozenWeights(model)
    model[1].weight.data += 1
    frozen.check()
    # Fingerprints are of bytes: the smallest change counts.
    model[0].bias.data += 1e-4
    with pytest.raises(RuntimeError, match="1 frozen weights changed while training, 0.bias among them"):
        frozen.check()


def test_a_run_that_diverges_stops_with_one_line(miniature, run_python, tmp_path):
    from .conftest import ROOT

    # SGD at an absurd rate, from the first step, without clipping: the loss overflows within 30 steps.
    process = run_python(
        *[
            "python",
            ROOT / "training/run_stage1.py",
            ROOT / "training/recipes/miniature/stage1.yaml",
            "--output_dir",
            tmp_path,
        ],
        *[
            "--teacher_name_or_path",
            miniature / "clip",
            "--text_encoder_name_or_path",
            miniature / "text_encoder",
        ],
        *[
            "--dataset",
            miniature / "dataset",
            "--max_steps",
            "30",
            "--per_device_train_batch_size",
            "16",
            "--logging_steps",
            "1",
        ],
        *[
            "--optim",
            "sgd",
            "--learning_rate",
            "1e18",
            "--warmup_steps",
            "0",
            "--max_grad_norm",
            "1e30",
            "--bf16",
            "false",
        ],
    )
    assert process.returncode == 1
    assert "lower learning_rate" in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr
