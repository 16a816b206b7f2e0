"""Copies configs/ into the wheel as textdiffusion/recipes; see pyproject.toml.

An editable install needs no copy: `load` finds configs/ beside the package.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
  """Builds the package and the recipes that come with it."""

  def run(self) -> None:
    super().run()
    if not self.editable_mode:
      target = Path(self.build_lib, 'textdiffusion', 'recipes')
      self.mkpath(str(target))
      for path in sorted(Path('configs').glob('*.py')):
        self.copy_file(str(path), str(target / path.name))


setup(cmdclass={'build_py': BuildWithRecipes})
