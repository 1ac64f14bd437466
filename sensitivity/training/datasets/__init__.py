"""Data sets, one file per family: ``load_dataset`` loads the one that a study names as a ``Dataset``."""

from sensitivity.training.datasets.dataset import Dataset

__all__ = ["Dataset"]
