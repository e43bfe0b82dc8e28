"""Batches larger than memory: contrastive gradients in chunks, after GradCache (Gao et al. 2021, arXiv 2101.06983).

1. Embed all chunks without a graph; keep the embeddings and the state of the random numbers before each chunk.
2. Compute the loss of the whole batch on the embeddings alone, and its gradient for each of them.
3. In backward, embed each chunk again, with a graph and with the same random numbers, and go back from its embeddings with the
   gradients kept. Memory holds the activations of one chunk.

Step 3 runs in a hook on the loss that is returned, so whatever scales or accumulates that loss is honoured.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch.utils.checkpoint import get_device_states, set_device_states


def cached_loss(
    encode: Callable[..., tuple[torch.Tensor, ...]],
    chunks: Sequence,
    loss: Callable[..., torch.Tensor],
    parameters: Sequence[torch.Tensor] = (),
    *,
    no_sync: Callable[[], AbstractContextManager] = nullcontext,
) -> torch.Tensor:
    """The loss of the whole batch; its backward gives the gradients that one large forward would have given.

    Args:
        encode: `(chunk) -> embeddings`, a tuple of one tensor `(rows, dim)` or more. It is called twice for a chunk.
        chunks: parts of the batch, in any form that `encode` takes.
        loss: `(*embeddings, *parameters) -> scalar`, with the embeddings of all chunks joined.
        parameters: what the loss needs beside embeddings, such as the temperature; their gradients come with the last chunk.
        no_sync: a context in which backward does not talk to other processes; the last chunk's does, for all.

    Returns:
        A scalar to call `backward` on, once.
    """
    states, embeddings = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_RandomNumbers(chunk))
            embeddings.append(encode(chunk))
    joined = [torch.cat(parts).requires_grad_() for parts in zip(*embeddings)]
    copies = [parameter.detach().requires_grad_(parameter.requires_grad) for parameter in parameters]
    device_type = joined[0].device.type
    autocast = torch.autocast(
        device_type, torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type)
    )
    wanted = [*joined, *(copy for copy in copies if copy.requires_grad)]
    with torch.enable_grad(), torch.autocast(device_type, enabled=False):
        value = loss(*joined, *copies)
        gradients = torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True)
    of_embeddings, of_parameters = gradients[: len(joined)], gradients[len(joined) :]
    by_chunk = list(
        zip(
            *(
                gradient.split([len(part) for part in parts])
                for gradient, parts in zip(of_embeddings, zip(*embeddings))
            )
        )
    )
    learning = [parameter for parameter in parameters if parameter.requires_grad]

    replay = partial(
        _replay, encode, chunks, states, by_chunk, list(zip(learning, of_parameters)), autocast, no_sync
    )
    result = value.detach().requires_grad_()
    result.register_hook(replay)
    return result


def _replay(encode, chunks, states, gradients, parameters, autocast, no_sync, scale: torch.Tensor) -> None:
    """Step 3; `scale` is the gradient that reached the loss."""
    for number, (chunk, state, of_chunk) in enumerate(zip(chunks, states, gradients), 1):
        last = number == len(chunks)
        with nullcontext() if last else no_sync(), torch.enable_grad():
            with state, autocast:
                embeddings = encode(chunk)
            pairs = [*zip(embeddings, of_chunk), *(parameters if last else ())]
            learning = [(values, gradient) for values, gradient in pairs if values.requires_grad]
            if learning:
                sum(
                    (_wide(values) * gradient * scale.detach()).sum() for values, gradient in learning
                ).backward()


def _wide(values: torch.Tensor) -> torch.Tensor:
    """In float32 at least: a sum in bfloat16 would lose most of what it adds."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class _RandomNumbers:
    """The state of the random numbers of the CPU, and of the devices of a chunk's tensors, to come back to for a while."""

    def __init__(self, chunk):
        tensors = (
            [value for value in chunk.values() if isinstance(value, torch.Tensor)]
            if isinstance(chunk, dict)
            else [chunk]
        )
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*tensors)

    def __enter__(self) -> None:
        self.fork = torch.random.fork_rng(devices=self.devices)
        self.fork.__enter__()
        torch.set_rng_state(self.cpu)
        set_device_states(self.devices, self.states)

    def __exit__(self, *raised) -> None:
        self.fork.__exit__(*raised)


__all__ = ["cached_loss"]
