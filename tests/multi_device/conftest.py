"""What these tests share."""

from tests.training.compiled import compiled

__all__ = ['compiled']
