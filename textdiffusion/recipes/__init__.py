"""The bundled recipes as modules: `from textdiffusion.recipes import mdlm`.

Their files are those of configs/, which a wheel has in this folder.
"""

from pathlib import Path

if not Path(__file__).with_name('presets.py').exists():  # a checkout
  __path__.append(str(Path(__file__).parents[2] / 'configs'))
