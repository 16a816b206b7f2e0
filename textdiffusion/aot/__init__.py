"""Ahead-of-time compilation of steps for accelerators that are not present."""
