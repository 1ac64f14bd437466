"""The diabetes data included in scikit-learn, without a download."""

from __future__ import annotations

import numpy as np
import torch

from sensitivity.study.problem import ProblemSpec
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.rows import Rows, split_rows


def diabetes(spec: ProblemSpec) -> Dataset:
    """Return ten measurements of 442 patients and the disease progression after a year (Efron et al. 2004).

    Inputs, and targets ``[examples, 1]``, are standardised with the statistics of the training examples.
    """
    from sklearn.datasets import load_diabetes  # imported here because it takes a second

    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    return split_rows(
        Rows(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets.astype(np.float64))[:, None]), spec
    )
