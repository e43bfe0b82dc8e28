"""Give a model the embeddings of the tokens that stay, and its configuration their ids."""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from common.errors import InputError


def rows_of(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> list[int]:
    """Return the old id of each token of a trimmed tokenizer, in the order of the new ids."""
    old_ids = old.get_vocab()
    new_ids = new.get_vocab()
    return [old_ids[token] for token in sorted(new_ids, key=new_ids.__getitem__)]


def tokens_of_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return the tokens that a model's configuration names by their ids, such as that of padding."""
    ids = set()
    for config in (model.config, model.config.text_config):
        ids.update(_token_ids(config).values())
    return {tokenizer.convert_ids_to_tokens(number) for number in ids if number < len(tokenizer)}


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a model has an embedding for each token, and nothing else of the vocabulary's size.

    Raises:
        InputError: it has not.
    """
    n_rows = model.get_input_embeddings().num_embeddings
    if n_rows < len(tokenizer) or n_rows != model.config.text_config.vocab_size:
        raise InputError(
            f"the model has embeddings of {n_rows} tokens, its configuration states "
            f"{model.config.text_config.vocab_size}, and the tokenizer has {len(tokenizer)}: give a model "
            "with the tokenizer that it was trained with"
        )


@torch.no_grad()
def trim_weights(model: PreTrainedModel, rows: list[int]) -> None:
    """Keep the embeddings of some tokens, and renumber the tokens in the configuration.

    Args:
        rows: the old id of each token that stays, in the order of the new ids.

    Raises:
        InputError: the id of padding would change, from which XLM-R counts the positions of tokens.
    """
    new_ids = {old: new for new, old in enumerate(rows)}
    padding = model.config.text_config.pad_token_id
    if padding is not None and new_ids.get(padding) != padding:
        raise InputError(
            f"padding has the id {padding} in the configuration, after pieces that would be removed: such a "
            "model cannot be trimmed, since its positions are counted from that id"
        )
    # In place, since it may be a class with a scale of its own. Rows beyond the tokenizer's are dropped.
    embeddings = model.get_input_embeddings()
    weight = embeddings.weight[torch.tensor(rows, device=embeddings.weight.device)]
    embeddings.weight = nn.Parameter(weight, requires_grad=embeddings.weight.requires_grad)
    embeddings.num_embeddings = len(rows)
    model.set_input_embeddings(embeddings)

    model.config.text_config.vocab_size = len(rows)
    for config in (model.config, model.config.text_config):
        for name, number in _token_ids(config).items():
            # An id that no token has, as SigLIP's configurations have one, is left as it is.
            setattr(config, name, new_ids.get(number, number))


def _token_ids(config: PreTrainedConfig) -> dict[str, int]:
    """Return the ids of tokens that a configuration states, `{"pad_token_id": 1}`."""
    stated = config.to_dict()
    return {name: stated[name] for name in stated if name.endswith("_token_id") and stated[name] is not None}


__all__ = ["check_vocabulary", "rows_of", "tokens_of_config", "trim_weights"]
