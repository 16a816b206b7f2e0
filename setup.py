"""Copies configs/ and launch/ into the wheel; see pyproject.toml.

They become textdiffusion/recipes and textdiffusion/launchers. An editable
install needs no copy: both packages find their files beside the package.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

COPIES = {'configs': 'recipes', 'launch': 'launchers'}


class BuildWithRecipes(build_py):
  """Builds the package, the recipes and the launchers that come with it."""

  def run(self) -> None:
    super().run()
    if self.editable_mode:
      return
    for source, package in COPIES.items():
      target = Path(self.build_lib, 'textdiffusion', package)
      self.mkpath(str(target))
      for path in sorted(Path(source).glob('*.py')):
        self.copy_file(str(path), str(target / path.name))


setup(cmdclass={'build_py': BuildWithRecipes})
