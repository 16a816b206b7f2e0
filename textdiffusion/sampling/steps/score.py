"""Moved to `samplers.score`."""

from textdiffusion.samplers.score import tweedie  # noqa: F401
