"""Moved to `samplers.rates`."""

from textdiffusion.samplers.rates import (  # noqa: F401
  euler,
  log_rates,
  tau_leaping,
)
