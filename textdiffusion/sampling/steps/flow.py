"""Moved to `samplers.flow`."""

from textdiffusion.samplers.flow import Corrector, flow  # noqa: F401
