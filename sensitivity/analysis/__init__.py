"""Tables to numbers: one pure function a quantity, ``compute_x(tables) -> XResult``.

Input is the tidy tables of ``store`` (columns in ``store.schema``), or any DataFrame with those columns.
Results are frozen, in the user's units, and carry their n: no planned run leaves a denominator.

* ``outcomes``: what a run counts with, diverged ones included.
* ``summary``: runs by status, and what they cost.
* ``maps``: the metric over the hyperparameter plane, its best cell and the cells near it.
* ``curves``: learning curves of cells over their seeds.
* ``targets``: which runs reach each target, and when.
* ``intervals``: the intervals and tests that few seeds allow.
* ``cautions``: what a reader must know before concluding.
"""
