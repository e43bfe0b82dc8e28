"""Build a wheel that exports two names, `modeling_altclip` and `altclip`; all else is in setup.cfg.

In the clone `training`, `benchmarks`, `model_cards`, `deploy` and `common` are folders at the top.
Installed under these names they would hide, or be hidden by, a user's own `training/`. So a wheel holds
them inside `altclip`, and their imports of one another are rewritten: `from training.losses import x`
becomes `from altclip.training.losses import x`. An editable install leaves the clone as it is, and
altclip/_clone.py gives it the wheel's names too.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

INSIDE = ("benchmarks", "common", "deploy", "model_cards", "training")
# An import at the start of a line, also in the example of a docstring:
# "from training.losses import x", "    import benchmarks.results", ">>> from benchmarks import compare"
IMPORT = re.compile(rf"^(\s*(?:>>> )?(?:from|import) )(?=(?:{'|'.join(INSIDE)})\b)", re.MULTILINE)


def below_altclip(package: str) -> str:
    """Return the name that a package has in the wheel: `training.jobs` -> `altclip.training.jobs`."""
    return f"altclip.{package}" if package.partition(".")[0] in INSIDE else package


class BuildForWheel(build_py):
    """Copy packages to where the wheel has them, and rewrite their imports."""

    def run(self):
        if not self.editable_mode:
            # What an earlier build has left would get into the wheel too.
            shutil.rmtree(self.build_lib, ignore_errors=True)
            self._rename_packages()
        super().run()
        if not self.editable_mode:
            for path in Path(self.build_lib, "altclip").rglob("*.py"):
                text = path.read_text("utf-8")
                path.write_text(IMPORT.sub(r"\1altclip.", text), "utf-8")

    def _rename_packages(self):
        """Tell setuptools the new names and the folders that they have here."""
        self.package_dir = {**(self.package_dir or {}), **{below_altclip(name): name for name in INSIDE}}
        self.package_data = {below_altclip(name): files for name, files in self.package_data.items()}
        self.packages = [below_altclip(name) for name in self.packages]


class DescribeWheel(egg_info):
    """Write the two names that a wheel exports to top_level.txt."""

    def run(self):
        super().run()
        names = {below_altclip(package).partition(".")[0] for package in self.distribution.packages}
        Path(self.egg_info, "top_level.txt").write_text("\n".join(sorted(names)) + "\n", "utf-8")


setup(cmdclass={"build_py": BuildForWheel, "egg_info": DescribeWheel})
