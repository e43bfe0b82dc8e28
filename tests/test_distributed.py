"""Two processes against one."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch.nn.functional import normalize

from training.losses import contrastive_loss, gather_rows

from .conftest import ROOT


def leaves():
    generator = torch.Generator().manual_seed(0)
    images, texts = (normalize(torch.randn(8, 6, generator=generator), dim=-1).requires_grad_() for _ in range(2))
    return images, texts, torch.tensor(4.0, requires_grad=True), torch.tensor([0, 1, 2, 3, 1, 5, 6, 7])


def half(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    images, texts, scale, ids = leaves()
    mine = slice(4 * rank, 4 * rank + 4)
    loss = contrastive_loss(gather_rows(images[mine]), gather_rows(texts[mine]), scale, image_ids=gather_rows(ids[mine]))
    loss.backward()
    torch.save((loss.detach(), images.grad, texts.grad, scale.grad), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_gathered_loss_and_gradients_equal_those_of_one_process(tmp_path):
    mp.spawn(half, args=(tmp_path,), nprocs=2)
    images, texts, scale, ids = leaves()
    loss = contrastive_loss(images, texts, scale, image_ids=ids)
    loss.backward()
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert images.grad.abs().max() > 0
    for one, two, plain in zip(*halves, (loss.detach(), images.grad, texts.grad, scale.grad)):
        torch.testing.assert_close((one + two) / 2, plain)  # DDP averages


@pytest.mark.parametrize("stage", ["stage0", "stage2"])
def test_two_processes_train_like_one(miniature, run, tmp_path, stage):
    """Plain SGD without autocast: what Adam would make of rounding errors is not the question."""
    if stage == "stage2":
        from transformers import AutoProcessor, AutoTokenizer

        from modeling_altclip import AltCLIPModel, AltCLIPProcessor

        torch.manual_seed(0)
        AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"), dropout=0.0).save_pretrained(tmp_path / "start")
        tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
        AltCLIPProcessor(AutoProcessor.from_pretrained(miniature / "clip").image_processor, tokenizer).save_pretrained(tmp_path / "start")
    start = miniature / "clip" if stage == "stage0" else tmp_path / "start"
    weights = {}
    for processes, launcher in ((1, ["python"]), (2, ["python", "-m", "torch.distributed.run", "--nproc_per_node", "2"])):
        process = run(
            *[*launcher, ROOT / f"training/run_{stage}.py", ROOT / f"training/recipes/miniature/{stage}.yaml"],
            *["--model_name_or_path", start, "--dataset", miniature / "dataset", "--output_dir", tmp_path / str(processes)],
            *["--max_steps", "4", "--per_device_train_batch_size", str(16 // processes), "--bf16", "false"],
            *["--optim", "sgd", "--learning_rate", "0.5", "--warmup_steps", "0"],
            OMP_NUM_THREADS="1",
        )
        assert process.returncode == 0, process.stderr
        weights[processes] = load_file(tmp_path / str(processes) / "model.safetensors")
    before = load_file(start / "model.safetensors")
    moved = [name for name, value in weights[1].items() if not torch.equal(value, before[name])]
    assert len(moved) > 20
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[2][name], value, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
