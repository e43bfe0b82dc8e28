"""In a clone, make `altclip.training` another name of `training`, so that one spelling works everywhere.

`altclip.training.losses` is then the same module object as `training.losses`, with the same classes.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

PACKAGES = ("benchmarks", "common", "deploy", "model_cards", "training")
_CLONE = Path(__file__).resolve().parent.parent


class _Alias(MetaPathFinder, Loader):
    """Import `altclip.NAME` as `NAME`, for the packages of the clone and their modules."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        inner = name.removeprefix("altclip.")
        is_ours = inner != name and inner.split(".")[0] in PACKAGES
        return spec_from_loader(name, self) if is_ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(spec.name.removeprefix("altclip."))
        if _CLONE not in Path(module.__file__).resolve().parents:
            raise ImportError(
                f"{spec.name} is in {_CLONE}, and {module.__file__} hides it: start from another folder, or "
                "install with `pip install .`, without --editable"
            )
        # Python is about to set the alias's own spec, by which the module would no longer know its name.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module, which has been executed under its own name, its own spec again."""
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Add the alias to the ways in which Python finds modules."""
    sys.meta_path.insert(0, _Alias())


__all__ = ["PACKAGES", "install"]
