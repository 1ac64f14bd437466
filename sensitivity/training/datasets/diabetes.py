"""scikit-learn's diabetes data, which come with it: no download."""

from __future__ import annotations

import numpy as np
import torch

from sensitivity.study.problem import ProblemSpec
from sensitivity.training.datasets.dataset import Dataset
from sensitivity.training.datasets.rows import Rows, split_rows


def diabetes(spec: ProblemSpec) -> Dataset:
    """Return 442 patients: ten measurements, and the progression of the disease after a year (Efron et al. 2004).

    Inputs and targets ``[examples, 1]`` are standardised with the training examples.
    """
    from sklearn.datasets import load_diabetes  # here: a second that nobody needs who trains on something else

    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    return split_rows(
        Rows(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets.astype(np.float64))[:, None]), spec
    )
