"""Batches larger than memory: contrastive gradients in chunks, after GradCache (Gao et al. 2021).

1. Embed all chunks without a graph; keep the embeddings, and the random state before each chunk.
2. Compute the loss of the whole batch on the embeddings alone, and its gradient for each of them.
3. In backward, embed each chunk again, with a graph and with the same random numbers, and go back from its
   embeddings with the gradients kept. Memory holds the activations of one chunk.

Step 3 runs in a hook on the loss that is returned, so whatever scales or accumulates that loss is honoured.
The paper is arXiv 2101.06983.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import get_device_states, set_device_states

from .losses import at_least_float32


def cached_loss(
    encode: Callable[..., tuple[torch.Tensor, ...]],
    chunks: Sequence,
    loss: Callable[..., torch.Tensor],
    parameters: Sequence[torch.Tensor] = (),
    *,
    no_sync: Callable[[], AbstractContextManager] = nullcontext,
) -> torch.Tensor:
    """Compute the loss of a whole batch with the activations of one chunk in memory (Gao et al. 2021).

    Its backward gives the gradients of one large forward.

    Args:
        encode: `(chunk) -> embeddings`, a tuple of one tensor `(rows, dim)` or more. It is called twice for a
            chunk.
        chunks: parts of the batch, in any form that `encode` takes.
        loss: `(*embeddings, *parameters) -> scalar`, with the embeddings of all chunks joined.
        parameters: what the loss needs beside embeddings, such as the temperature; their gradients come with
            the last chunk.
        no_sync: a context in which backward does not talk to other processes; the last chunk's does, for all.

    Returns:
        A scalar to call `backward` on, once.

    Example:

    ```python
    >>> import torch
    >>> from training import cached_loss

    >>> encoder = torch.nn.Linear(2, 1)
    >>> chunks = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0]])]
    >>> loss = cached_loss(lambda chunk: (encoder(chunk),), chunks, torch.mean)
    >>> loss.backward()
    >>> encoder.weight.grad
    tensor([[3., 4.]])
    ```
    """
    # Step 1: embed every chunk without a graph.
    states, embeddings = _embed_chunks(encode, chunks)

    # Step 2: the loss of the whole batch and its gradients. Chunks become sides for it:
    # [(images 0, texts 0), (images 1, texts 1)] -> [(images 0, images 1), (texts 0, texts 1)]
    by_side = list(zip(*embeddings))
    joined = [torch.cat(parts) for parts in by_side]
    value, of_joined, of_parameters = _loss_and_gradients(loss, joined, parameters)

    # Step 3 is only prepared. The loss is cut off from the graph of step 2; its backward calls the hook.
    replay = _Replay(
        encode=encode,
        chunks=chunks,
        states=states,
        gradients=_split_by_chunk(of_joined, by_side),
        parameters=of_parameters,
        autocast=_current_autocast(joined[0].device.type),
        no_sync=no_sync,
    )
    result = value.detach().requires_grad_()
    result.register_hook(replay)
    return result


def _embed_chunks(
    encode: Callable[..., tuple[torch.Tensor, ...]], chunks: Sequence
) -> tuple[list["_RandomNumbers"], list[tuple[torch.Tensor, ...]]]:
    """Compute step 1 of `cached_loss`.

    Returns:
        The random state before each chunk, so that dropout drops the same units in step 3; and the embeddings
        of each chunk, without a graph.
    """
    states = []
    embeddings = []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_RandomNumbers(chunk))
            embeddings.append(encode(chunk))
    return states, embeddings


def _loss_and_gradients(
    loss: Callable[..., torch.Tensor], joined: list[torch.Tensor], parameters: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Compute step 2 of `cached_loss`.

    Returns:
        The loss, the gradient of each of `joined`, and each parameter that learns with its gradient.
    """
    # Copies, so that nothing reaches the parameters themselves before step 3.
    embeddings = [values.requires_grad_() for values in joined]
    copies = [parameter.detach().requires_grad_(parameter.requires_grad) for parameter in parameters]
    leaves = [*embeddings, *(copy for copy in copies if copy.requires_grad)]
    with torch.enable_grad(), torch.autocast(joined[0].device.type, enabled=False):
        value = loss(*embeddings, *copies)
        # A loss need not use every leaf: the gradient of one that it leaves out is zero.
        gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)

    of_joined = gradients[: len(joined)]
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    of_parameters = list(zip(learning, gradients[len(joined) :]))
    return value, of_joined, of_parameters


def _current_autocast(device_type: str) -> torch.autocast:
    """Return the autocast of step 1: backward, and so step 3, runs outside of it."""
    dtype = torch.get_autocast_dtype(device_type)
    return torch.autocast(device_type, dtype, torch.is_autocast_enabled(device_type))


@dataclass
class _Replay:
    """Step 3 of `cached_loss`, as a hook."""

    encode: Callable[..., tuple[torch.Tensor, ...]]
    chunks: Sequence
    states: list["_RandomNumbers"]  # one a chunk
    gradients: list[tuple[torch.Tensor, ...]]  # one tuple a chunk, in the order of `encode`'s embeddings
    parameters: list[tuple[torch.Tensor, torch.Tensor]]  # each with its gradient
    autocast: torch.autocast
    no_sync: Callable[[], AbstractContextManager]

    def __call__(self, scale: torch.Tensor) -> None:
        """Embed each chunk again and go back from its embeddings.

        `scale` is the gradient that reached the loss: 1, or what accumulation and loss scaling make of it.
        """
        for number, chunk in enumerate(self.chunks):
            last = number == len(self.chunks) - 1
            # DDP adds up gradients over processes in the last chunk's backward, once for all chunks.
            sync = nullcontext() if last else self.no_sync()
            with sync, torch.enable_grad():
                with self.states[number], self.autocast:
                    embeddings = self.encode(chunk)
                pairs = list(zip(embeddings, self.gradients[number]))
                if last:
                    pairs += self.parameters
                self._go_back(pairs, scale.detach())

    @staticmethod
    def _go_back(pairs: list[tuple[torch.Tensor, torch.Tensor]], scale: torch.Tensor) -> None:
        """Call backward on the values that learn, each with its gradient."""
        # d(sum of value * gradient) / d(value) = gradient
        products = []
        for values, gradient in pairs:
            if values.requires_grad:
                products.append((at_least_float32(values) * gradient * scale).sum())
        if products:
            sum(products).backward()


def _split_by_chunk(
    gradients: Sequence[torch.Tensor], by_side: list[tuple[torch.Tensor, ...]]
) -> list[tuple[torch.Tensor, ...]]:
    """Split the gradient of each side into those of its chunks, and return one tuple a chunk.

    Sides become chunks again: `[(images 0, images 1), (texts 0, texts 1)]` ->
    `[(images 0, texts 0), (images 1, texts 1)]`.
    """
    split = []
    for gradient, parts in zip(gradients, by_side):
        split.append(gradient.split([len(part) for part in parts]))
    return list(zip(*split))


class _RandomNumbers:
    """The random state of the CPU and of the devices of a chunk's tensors, to come back to for a while."""

    def __init__(self, chunk):
        tensors = [chunk]
        if isinstance(chunk, dict):
            tensors = [value for value in chunk.values() if isinstance(value, torch.Tensor)]
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*tensors)

    def __enter__(self) -> None:
        # Forked, so that what runs after the chunk draws on as if there had been no replay.
        self.fork = torch.random.fork_rng(devices=self.devices)
        self.fork.__enter__()
        torch.set_rng_state(self.cpu)
        set_device_states(self.devices, self.states)

    def __exit__(self, *raised) -> None:
        self.fork.__exit__(*raised)


__all__ = ["cached_loss"]
