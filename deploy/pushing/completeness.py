"""Check that others can load the model that is pushed: its weights and its code are there."""

from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from common.errors import InputError, one_line
from common.files.json_files import read_json
from modeling_altclip.checksums_altclip import find_damages, has_checksums

from .files import Contents

# By one of these a library knows what kind of model a folder has.
_CONFIGURATIONS = ("config.json", "adapter_config.json", "model_index.json")
_WITH_CODE = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_WEIGHTS = (".safetensors", ".bin", ".onnx")


def check_model(folder: Path, contents: Contents) -> None:
    """Check the folder of a model.

    Raises:
        InputError: it lacks a configuration, weights, a shard of them or code that a configuration names; or
            a file is not as its checksums say; or an adapter's base is a folder of this machine.
    """
    if not contents.names & set(_CONFIGURATIONS):
        raise InputError(
            f"folder {str(folder)!r} has no config.json, and so no model: give the folder of a model, or "
            "--repo_type dataset for a data set"
        )
    if not any(name.endswith(_WEIGHTS) for name in contents.names):
        raise InputError(
            f"folder {str(folder)!r} has a configuration and no weights: give a complete model, not a part"
        )
    if "adapter_config.json" in contents.names:
        _check_base(folder)
    _check_shards(folder, contents)
    for name in _WITH_CODE:
        if name in contents.names:
            _check_code(folder, name, contents)
    if has_checksums(folder) and (damages := find_damages(folder)):
        raise InputError(
            f"folder {str(folder)!r} is not as it was saved, {'; '.join(damages)}: get a complete copy, or "
            "accept it as it is: altclip check --rewrite"
        )


def _check_base(folder: Path) -> None:
    """See that the model of an adapter is not a folder of this machine, where nobody else finds it."""
    base = read_json(folder / "adapter_config.json", "file").get("base_model_name_or_path")
    if base and Path(base).exists():
        raise InputError(
            f"adapter_config.json names the base model {base!r}, a folder of this machine: push that first, "
            "and put its name on the Hub there"
        )


def _check_shards(folder: Path, contents: Contents) -> None:
    """See that all files of weights that an index names are there."""
    for name in contents.names:
        if not name.endswith(".index.json"):
            continue
        index = read_json(folder / name, "file")
        shards = set(index["weight_map"].values())
        if missing := shards - {Path(other).name for other in contents.names}:
            raise InputError(
                f"{name} names {', '.join(sorted(missing))}, which folder {str(folder)!r} lacks: give a "
                "complete model"
            )


def _check_code(folder: Path, name: str, contents: Contents) -> None:
    """See that the code is there that a configuration names, and what that code imports.

    Without it the repository would be broken for those who load it with `trust_remote_code=True`.
    """
    settings = read_json(folder / name, "file")
    for module in sorted(_modules_of(settings)):
        first = folder / f"{module}.py"
        needed = [first]
        if first.is_file():
            try:
                needed += map(Path, get_relative_import_files(first))
            except FileNotFoundError as error:
                raise InputError(f"{first.name} imports a file that is missing: {one_line(error)}") from error
        missing = sorted({path.name for path in needed} - contents.names)
        if missing:
            raise InputError(
                f"{name} names code in {', '.join(missing)}, which folder {str(folder)!r} lacks: save the "
                "model again, or remove auto_map if the model needs no code"
            )


def _modules_of(settings: dict) -> set[str]:
    """Return the modules that `auto_map` names in this folder: "modeling_a.AModel" -> "modeling_a"."""
    modules = set()
    for key in ("auto_map", "text_auto_map"):
        for named in (settings.get(key) or {}).values():
            # A tokenizer has two classes, of which one may be missing.
            for reference in named if isinstance(named, list) else [named]:
                # "org/name--modeling_a.AModel" is code of another repository.
                if reference is not None and "--" not in reference:
                    modules.add(reference.rpartition(".")[0])
    return modules


__all__ = ["check_model"]
