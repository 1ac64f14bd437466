"""Data sets: ``load_dataset`` for what a study names, ``Dataset`` for what comes back. A file a family."""

from sensitivity.training.datasets.dataset import Dataset

__all__ = ["Dataset"]
