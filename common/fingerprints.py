"""Fingerprints of models and of what prepares their inputs, by which caches and results know them."""

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from xxhash import xxh3_128

from modeling_altclip import AltCLIPDualEncoderConfig
from modeling_altclip.images_altclip import background_of
from modeling_altclip.reading_altclip import text_reading
from modeling_altclip.text_code_altclip import digest_of_code
from modeling_altclip.texts_altclip import text_length

from .models.adapter import AdaptedImageProcessor, AdaptedTokenizer
from .models.revisions import revision_of

# Keys of a configuration that no embedding depends on.
_INCIDENTAL = ("_name_or_path", "architectures", "dtype", "matryoshka_dims", "transformers_version")


def hash_weights(model: torch.nn.Module) -> str:
    """Return the SHA-256 of the names and bytes of all parameters and persistent buffers.

    Results store it, so that each names the very weights it was measured on.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        values = value.detach().cpu().contiguous().view(-1)
        digest.update(values.view(torch.uint8).numpy())
    return digest.hexdigest()


def settings(tower: PreTrainedModel) -> str:
    """Return a configuration as JSON, for fingerprints: weights say nothing of, say, the activation."""
    configuration = tower.config.to_dict()
    relevant = {name: value for name, value in configuration.items() if name not in _INCIDENTAL}
    # Nor do they say what code an encoder has brought.
    is_dual = isinstance(tower.config, AltCLIPDualEncoderConfig)
    code = digest_of_code(tower.config.text_config if is_dual else tower.config)
    if code is not None:
        relevant["code"] = code
    return json.dumps(relevant, sort_keys=True)


def prepared_images(model: PreTrainedModel, processor: ProcessorMixin) -> str:
    """Describe how images become pixels, with the background of transparent ones, for fingerprints."""
    prepare = processor.image_processor
    on_background = f" on {background_of(prepare)}"
    if isinstance(prepare, AdaptedImageProcessor):
        return _adapter_fingerprint(model) + on_background
    return f"{type(prepare).__name__} {prepare.to_json_string()}{on_background}"


def prepared_texts(model: PreTrainedModel, processor: ProcessorMixin) -> str:
    """Describe how texts become tokens, for fingerprints."""
    if isinstance(processor.tokenizer, AdaptedTokenizer):
        return _adapter_fingerprint(model)
    reading = text_reading(model)
    how = repr(reading) if reading.is_canonical else ""
    return written(processor.tokenizer) + how


def _adapter_fingerprint(model: PreTrainedModel) -> str:
    """Hash what defines another library's model beside its weights.

    This is the version of the library, and the settings in the model's folder or the commit on the Hub.
    """
    name = model.config.name_or_path
    library = "open_clip_torch" if "open_clip:" in name else "sentence-transformers"
    known = [name, version(library), str(revision_of(name))]
    # "m_clip:TEXT+IMAGE" -> TEXT, IMAGE: folders, or names on the Hub
    for part in name.split("+"):
        folder = Path(part.rpartition(":")[2])
        if folder.is_dir():
            for path in sorted(folder.rglob("*.json")):
                known.append(f"{path.name} {path.read_text('utf-8')}")
    return xxh3_128("\n".join(known).encode()).hexdigest()


def written(tokenizer: PreTrainedTokenizerBase | AdaptedTokenizer) -> str:
    """Return a tokenizer as JSON, for fingerprints; of another library's, what it states of itself.

    The padding and truncation of its last call are left out; the length at which texts are cut is added.
    """
    if isinstance(tokenizer, AdaptedTokenizer):
        return tokenizer.settings
    if tokenizer.is_fast:
        described = json.loads(tokenizer.backend_tokenizer.to_str())
    else:
        described = {"class": type(tokenizer).__name__, "files": saved_files(tokenizer.save_pretrained)}
    described |= {"padding": None, "truncation": None, "max_length": text_length(tokenizer)}
    return json.dumps(described, sort_keys=True)


def saved_files(save: Callable[[str], object]) -> dict[str, str]:
    """Return the XXH3-128 of each file that a tokenizer saves by its method `save`, which takes a folder.

    A tokenizer written in Python has no other complete description.
    """
    with TemporaryDirectory() as folder:
        save(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.name: xxh3_128(path.read_bytes()).hexdigest() for path in files}


__all__ = ["hash_weights", "prepared_images", "prepared_texts", "saved_files", "settings", "written"]
