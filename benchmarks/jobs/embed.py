"""Embed a folder of images or a file of texts with any model, and save what a search or a classifier reads.

The output folder gets `embeddings.npy`, float32 `(items, dim)` with rows of unit length; `items.jsonl`, whose
lines name the items of these rows, `{"image": "beach/1.jpg"}` or `{"text": "a dog"}`; and, where items were
skipped, `skipped.jsonl` with the reason for each.
"""

import json
import re
import shlex
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin

from common.arguments import DTYPES, check_dtype, dtype_field, trust_remote_code_field
from common.commands import command_for
from common.errors import InputError
from common.files.text_files import lines_of
from common.files.whole_files import written_whole
from common.models.loading import check_model, load_model
from common.output import check_new_output_dir, saving
from modeling_altclip import embed_images, embed_texts
from modeling_altclip.image_files_altclip import find_images
from modeling_altclip.texts_altclip import is_blank


@dataclass(kw_only=True)
class EmbedArguments:
    """A model, what it embeds, and where the embeddings go."""

    model_name_or_path: str = field(
        metadata={
            "help": "The folder or Hub id of the model, which may also stand first without the flag. "
            "Models of other libraries are written as in an evaluation, such as open_clip:NAME."
        }
    )
    images: str | None = field(
        default=None,
        metadata={"help": "The folder of images to embed, with its subfolders, or a glob in quotes."},
    )
    texts: str | None = field(
        default=None, metadata={"help": "The text file to embed, in UTF-8, with one text a line."}
    )
    output_dir: str = field(metadata={"help": "The folder to make for the embeddings; it must be new."})
    trust_remote_code: bool = trust_remote_code_field()
    dtype: str = dtype_field()
    batch_size: int = field(default=256, metadata={"help": "The number of items that are encoded at once."})
    truncate_dim: int | None = field(
        default=None,
        metadata={
            "help": "The number of dimensions to keep of each embedding, the first ones. By default all; see "
            "matryoshka_dims in the model's config.json for those that it was trained for."
        },
    )

    def __post_init__(self):
        if (self.images is None) == (self.texts is None):
            raise InputError(
                f"images is {self.images} and texts is {self.texts}: give one of them, --images FOLDER or "
                "--texts FILE"
            )
        check_dtype(self.dtype)
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}: give a number of at least 1")
        if self.truncate_dim is not None and self.truncate_dim < 1:
            raise InputError(
                f"truncate_dim is {self.truncate_dim}: give a number of at least 1, or leave it out"
            )


@dataclass
class _Embedded:
    """Embeddings `(items, dim)`, what is written of each item, and of each that was skipped."""

    embeddings: np.ndarray
    items: list[dict]
    skipped: list[dict]


def main(arguments: EmbedArguments) -> None:
    """Check the input and the output folder before the model is loaded; embed and save.

    Raises:
        InputError: the model, the images or the texts cannot be used, or the output folder has files.
    """
    folder = Path(arguments.output_dir)
    check_new_output_dir(folder)
    given = {"argument": "model_name_or_path", "trust_remote_code": arguments.trust_remote_code}
    check_model(arguments.model_name_or_path, **given)
    texts = None
    if arguments.texts is None:
        _check_images(arguments.images)
    else:
        texts = _read_lines(arguments.texts)

    model, processor = load_model(arguments.model_name_or_path, **given)
    model.to(PartialState().device, DTYPES[arguments.dtype])
    try:
        if texts is None:
            embedded = _embed_images(model, processor, arguments)
        else:
            embedded = _embed_texts(model, processor, texts, arguments)
    except ValueError as error:
        raise InputError(error) from error  # names the item, and what is wrong with it
    with saving("the embeddings", folder, embedded.embeddings.nbytes):
        try:
            _save(embedded, folder)
        except OSError:
            # The folder was new. A part of its files would make the next run refuse it.
            shutil.rmtree(folder, ignore_errors=True)
            raise

    n_items, dim = embedded.embeddings.shape
    if embedded.skipped:
        print(f"Skipped {len(embedded.skipped)} of {n_items + len(embedded.skipped)}, {_reasons(embedded)}.")
    print(
        f"Saved {n_items} embeddings of {dim} dimensions to {folder}; line n of items.jsonl names row n. "
        f"Next: {_next_command(arguments)}, whose dot products with these are similarities"
    )


def _check_images(images: str) -> None:
    """See that there are images, before a model is loaded for them."""
    try:
        find_images(images)
    except ValueError as error:
        raise InputError(error) from error


def _read_lines(path: str) -> list[str]:
    """Read the lines of a text file.

    Raises:
        InputError: there is no file, or no text in it.
    """
    if not Path(path).is_file():
        raise InputError(f"texts {path!r} is no file: give a text file with one text a line")
    lines = list(lines_of(path, "texts"))
    if all(map(is_blank, lines)):
        raise InputError(f"texts {path!r} has no text: write one text a line")
    return lines


def _embed_images(model: PreTrainedModel, processor: ProcessorMixin, arguments: EmbedArguments) -> _Embedded:
    """Embed the images of a folder, and skip those that cannot be read."""
    found = embed_images(
        model,
        processor,
        arguments.images,
        batch_size=arguments.batch_size,
        show_progress=True,
        convert_to_numpy=True,
        truncate_dim=arguments.truncate_dim,
        return_names=True,
        errors="skip",
    )
    items = [{"image": name} for name in found.names]
    skipped = [{"image": image.name, "reason": image.reason} for image in found.skipped]
    return _Embedded(found.embeddings, items, skipped)


def _embed_texts(
    model: PreTrainedModel, processor: ProcessorMixin, lines: list[str], arguments: EmbedArguments
) -> _Embedded:
    """Embed the lines of a file, and skip those that are blank."""
    texts = [line for line in lines if not is_blank(line)]
    embeddings = embed_texts(
        model,
        processor,
        texts,
        batch_size=arguments.batch_size,
        show_progress=True,
        convert_to_numpy=True,
        truncate_dim=arguments.truncate_dim,
    )
    skipped = []
    for number, line in enumerate(lines, start=1):
        if is_blank(line):
            skipped.append({"line": number, "reason": "the line is blank"})
    return _Embedded(embeddings, [{"text": text} for text in texts], skipped)


def _save(embedded: _Embedded, folder: Path) -> None:
    """Write the files of the output folder, the embeddings last: where they are, all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "items.jsonl", embedded.items)
    if embedded.skipped:
        _write_lines(folder / "skipped.jsonl", embedded.skipped)
    with written_whole(folder / "embeddings.npy") as file:
        np.save(file, embedded.embeddings)


def _write_lines(path: Path, rows: list[dict]) -> None:
    with written_whole(path) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def _reasons(embedded: _Embedded) -> str:
    """Count the reasons, the most frequent first: `2 x cannot identify image file, 1 x ...`."""
    # "cannot identify image file '/photos/a.png'" is the same reason for every file.
    reasons = [re.sub(r"\s*'[^']*'", "", row["reason"]) for row in embedded.skipped]
    counts = Counter(reasons)
    shown = [f"{count} x {reason}" for reason, count in counts.most_common(3)]
    if len(counts) > len(shown):
        shown.append(f"and {len(counts) - len(shown)} other reasons")
    return f"{', '.join(shown)}: see skipped.jsonl"


def _next_command(arguments: EmbedArguments) -> str:
    """Return the command that embeds what these embeddings can be compared with."""
    other = "--texts TEXTS.txt" if arguments.texts is None else "--images FOLDER"
    model = shlex.quote(arguments.model_name_or_path)
    command = f"{command_for('embed')} {model} {other} --output_dir OTHER"
    if arguments.truncate_dim is not None:
        command += f" --truncate_dim {arguments.truncate_dim}"
    if arguments.trust_remote_code:
        command += " --trust_remote_code"
    return command


__all__ = ["EmbedArguments", "main"]
