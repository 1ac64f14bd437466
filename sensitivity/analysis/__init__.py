"""Tables to numbers: one pure function a quantity, ``compute_x(tables) -> XResult``.

Input is the tidy tables of ``store`` (columns in ``store.schema``), or any DataFrame with those columns.
Results are frozen, in the user's units, and carry their n: no planned run leaves a denominator. An estimate that
would mislead is refused: its value is NaN and ``refused`` says why (``estimates.Estimate``).

What a run counts with, and what the configurations are
* ``outcomes``: a run's value, diverged ones included. ``times``: when each run reaches a target, the table that
  scaling, cost and verdict start from. ``designs``: grid, draws or adaptive search; edges of the grid.
* ``winners``: the best configuration at a batch size, timed on seeds that did not choose it.
* ``intervals``: the intervals and tests that few seeds allow. ``estimates``: ``Estimate`` and ``Caution``.

What was run
* ``summary``: runs by status, and what they cost. ``cautions``: what a reader must know before concluding.
* ``maps``: the metric over the hyperparameter plane. ``curves``: learning curves of cells over their seeds.
* ``targets``: which runs reach each target, and when.

How far does it scale
* ``scaling``: ``compute_scaling(times, unit) -> ScalingCurve`` an optimizer: time to target by the best
  configuration, efficiency, edges. ``critical``: ``CriticalBatchSize``, its fit and interval.
"""
