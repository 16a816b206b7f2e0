"""A step compiled ahead of time, for accelerators that are not at hand."""
