"""Text encoders that bring code of their own: it runs where the user has said so, and travels with the model.

A folder with such an encoder names its two classes in the `auto_map` of `config.json`. A dual encoder made of
it names them in `text_auto_map`, and its folder holds their files. Until the code may run, `text_config` is a
plain `PreTrainedConfig`.
"""

import hashlib
import re
import shutil
import sys
from copy import deepcopy
from os import PathLike
from pathlib import Path

from transformers import AutoModel, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_relative_import_files

from .checksums_altclip import check_files
from .configuration_altclip_dual_encoder import (
    TEXT_CLASSES,
    AltCLIPDualEncoderConfig,
    check_text_auto_map,
    check_widths,
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Options of `from_pretrained` that say where files are.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
# Where transformers puts the code of folders, after it has copied it into its cache.
_MODULES = "transformers_modules."
# The ending of our own modules, which lie beside the encoder's.
_OURS = "_altclip.py"


def check_allowed(text_auto_map: dict[str, str], trust_remote_code: bool) -> None:
    """Refuse to run the code of a text encoder that the user has not allowed.

    Raises:
        ValueError: `trust_remote_code` is not set.
    """
    if not trust_remote_code:
        files = " and ".join(dict.fromkeys(_file_of(name) for name in text_auto_map.values()))
        raise ValueError(
            f"the text encoder brings code of its own, {files}, which runs only with trust_remote_code: "
            "read the code, and set trust_remote_code to true if you trust it"
        )


def _file_of(reference: str) -> str:
    """Return the file of a class: "modeling.NewModel" -> "modeling.py"."""
    return f"{reference.rpartition('.')[0]}.py"


def find_code(values: dict) -> dict[str, str] | None:
    """Return the classes of an encoder that brings its code, as its `config.json` names them.

    Returns:
        `{"AutoConfig": reference, "AutoModel": reference}`; None unless both are named.
    """
    auto_map = values.get("auto_map")
    if not isinstance(auto_map, dict):
        return None
    if not all(isinstance(auto_map.get(name), str) for name in TEXT_CLASSES):
        return None
    return {name: auto_map[name] for name in TEXT_CLASSES}


def load_classes(
    references: dict[str, str], name_or_path: str | PathLike, **hub_options
) -> tuple[type, type]:
    """Run the code of a text encoder, and return the classes of its configuration and its model.

    `AutoModel` then knows the two. Call `check_allowed` first.

    Args:
        references: by `AutoConfig` and `AutoModel`, a class in a file of the folder, `module.Class`, or in a
            repository of the Hub, `owner/name--module.Class`.
        name_or_path: the folder or Hub id that names them.
        hub_options: those of `HUB_OPTIONS`.

    Raises:
        ValueError: a reference leads out of the folder, a class is not defined there, or a file would replace
            one of ours in a saved folder.
        OSError: a file is missing.
    """
    for reference in references.values():
        _check_reference(reference)
    classes = []
    for name in TEXT_CLASSES:
        found = get_class_from_dynamic_module(references[name], str(name_or_path), **hub_options)
        if not found.__module__.startswith(_MODULES):
            # Registering a class of a library would change what other models are loaded as.
            raise ValueError(
                f"{name_or_path} has {references[name]!r} as its {name}, which is a class of "
                f"{found.__module__} and not of its own code: name one that the folder defines"
            )
        classes.append(found)
    config_class, model_class = classes
    _code_files(config_class, model_class)  # refuses names of ours before anything is trained
    AutoModel.register(config_class, model_class, exist_ok=True)
    return config_class, model_class


def _check_reference(reference: str) -> None:
    """Refuse the name of a class that is not in the folder itself, or in a repository of the Hub.

    Raises:
        ValueError: it is in another folder of this machine, or is no name of a class.
    """
    repository, _, name = reference.rpartition("--")
    check_text_auto_map(dict.fromkeys(TEXT_CLASSES, name))
    is_on_hub = _HUB_ID.fullmatch(repository) and not Path(repository).exists()
    if repository and not is_on_hub:
        raise ValueError(
            f"auto_map has {reference!r}, which is outside of the encoder's folder: "
            "put the code into the folder, or name a repository of the Hub"
        )


def text_auto_map_of(text_config: PreTrainedConfig) -> dict[str, str] | None:
    """Return the two classes of a text encoder that brought its code, as a saved folder names them.

    Returns:
        `{"AutoConfig": "module.Class", "AutoModel": "module.Class"}`; None for an encoder of transformers.
    """
    config_class = type(text_config)
    if not config_class.__module__.startswith(_MODULES):
        return None
    classes = (config_class, AutoModel._model_mapping[config_class])
    references = [f"{one.__module__.rpartition('.')[2]}.{one.__name__}" for one in classes]
    return dict(zip(TEXT_CLASSES, references))


def with_text_code(
    config: AltCLIPDualEncoderConfig, name_or_path: str | PathLike, *, subfolder: str = "", **hub_options
) -> AltCLIPDualEncoderConfig:
    """Run the code that a saved dual encoder's text encoder brings, and return its whole configuration.

    One whose text encoder is of transformers, or whose code has run, is returned as it is.

    Args:
        name_or_path, subfolder: where the configuration was loaded from. Only code from there is run.

    Raises:
        ValueError: a file is not as the folder's checksums say, see `load_classes`, or the encoder is none of
            tokens.
        OSError: a file is missing.
    """
    if not lacks_text_code(config):
        return config
    check_files(Path(name_or_path, subfolder), "settings")
    folder = Path(name_or_path, subfolder) if subfolder else name_or_path
    config_class, _ = load_classes(config.text_auto_map, folder, **hub_options)
    config = deepcopy(config)
    values = config.text_config.to_dict()
    del values["model_type"], values["transformers_version"]  # the class states its type
    attention = config.text_config._attn_implementation
    config.text_config = config_class(**values)
    config.text_config._attn_implementation = attention
    check_widths(config.text_config, config.vision_config)
    return config


def lacks_text_code(config: AltCLIPDualEncoderConfig) -> bool:
    """Return whether the text tower of a configuration cannot be built, since its code has not run."""
    return type(config.text_config) is PreTrainedConfig


def copy_text_code(text_config: PreTrainedConfig, folder: str | PathLike) -> None:
    """Copy the code of a text encoder into the folder of a model, if it brought any."""
    if text_auto_map_of(text_config) is None:
        return
    config_class = type(text_config)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, path in _code_files(config_class, AutoModel._model_mapping[config_class]).items():
        shutil.copyfile(path, Path(folder, name))


def digest_of_code(text_config: PreTrainedConfig) -> str | None:
    """Return the SHA-256 of the code that a text encoder has brought, for fingerprints; None without any."""
    if text_auto_map_of(text_config) is None:
        return None
    config_class = type(text_config)
    digest = hashlib.sha256()
    for name, path in sorted(_code_files(config_class, AutoModel._model_mapping[config_class]).items()):
        digest.update(f"{name}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _code_files(config_class: type, model_class: type) -> dict[str, Path]:
    """Return the files of two classes, with all that these import of their folder, by name.

    Raises:
        ValueError: two files of one name differ, or one is named like a file of ours.
    """
    files = {}
    for one in (config_class, model_class):
        first = sys.modules[one.__module__].__file__
        for path in map(Path, (first, *get_relative_import_files(first))):
            if path.name.endswith(_OURS):
                raise ValueError(
                    f"the text encoder's code has a file {path.name}, and files that end with {_OURS} are "
                    "ours in a saved folder: rename it"
                )
            if path.name in files and files[path.name].read_bytes() != path.read_bytes():
                raise ValueError(
                    f"the text encoder's code has two files {path.name}, of its configuration and of its "
                    "model, which differ: rename one"
                )
            files[path.name] = path
    return files


__all__ = [
    "HUB_OPTIONS",
    "check_allowed",
    "copy_text_code",
    "digest_of_code",
    "find_code",
    "lacks_text_code",
    "load_classes",
    "text_auto_map_of",
    "with_text_code",
]
