"""Tables to numbers: one pure function a quantity, ``compute_x(tables) -> XResult``; ``StudyResults`` asks them all.

``study_results``: every answer of one study under one view (``view``), computed when asked for and kept (``memo``).
It reads a study through ``tables``: whole (``store.reader.Study``), or as few of its evaluations as an answer needs
(``evaluations.read_tables``).

Input is the tidy tables of ``store`` (columns in ``store.schema``), or any DataFrame with those columns.
Results are frozen, in the user's units, and carry their n: no planned run leaves a denominator. An estimate that
would mislead is refused: its value is NaN and ``refused`` says why (``estimates.Estimate``).

What a run counts with, and what the configurations are
* ``outcomes``: a run's value, diverged ones included. ``times``: when each run reaches a target, the table that
  scaling, cost and verdict start from. ``designs``: grid, draws or adaptive search; edges of the grid.
* ``honest``, ``winners``: the best configuration at a batch size, timed on seeds that did not choose it. ``nested``:
  what that choice may cost. ``grain``, ``censored``: times of which only an interval is known.
* ``intervals``: the intervals and tests that few seeds allow. ``estimates``: ``Estimate`` and ``Caution``.
* ``names``: what optimizers and hyperparameters are called in sentences.

What was run
* ``summary``: runs by status, and what they cost. ``cautions``: what a reader must know before concluding.
* ``maps``: the metric over the hyperparameter plane. ``curves``: learning curves of cells over their seeds.
* ``targets``: which runs reach each target, and when.

How far does it scale, and at what cost
* ``scaling``: ``compute_scaling(times, unit) -> ScalingCurve`` an optimizer: time to target by the best
  configuration, efficiency, edges; its points and cautions in ``scaling_points`` and ``scaling_cautions``.
  ``critical``: ``CriticalBatchSize``, its fit and interval.
* ``cost``: ``compute_cost(runs) -> Cost`` an optimizer and batch size; ``compute_cost_ratios -> CostRatio``.
  ``time_split``: ``compute_time_split(runs) -> TimeSplit``, a step's time by phase.

How sensitive is it
* ``success``: ``compute_success -> SuccessSurface`` an optimizer, over batch size x target;
  ``compute_success_difference -> SuccessDifference``. ``success_plane``: ``compute_success_planes(times) ->
  SuccessPlane``. ``rates``: the rates they are made of.
* ``price``: ``compute_prices -> TuningPrice`` an optimizer and batch size, what it takes until a drawn setting works;
  ``compute_price_ratios -> PriceRatio``. ``draws``: which runs are draws, in which independent blocks; ``ratios``:
  Fieller's interval over blocks; ``betting``: tests that hold at any stop.
* ``regions``: ``compute_regions -> RobustRegion`` an optimizer and batch size, in decades;
  ``volumes``: how.
* ``best_of_k``: ``compute_best_of_k -> BestOfK`` an optimizer and batch size, in trials and device-seconds.
* ``lr_sensitivity``: ``compute_lr_sensitivity -> LrSensitivity`` an optimizer and batch size.
* ``tuning``: ``compute_tuning -> Tuning`` an optimizer: one setting for all batch sizes, tunability, effective
  dimension. ``scores``: the array they start from.
* ``importance``: ``compute_importance -> Importance`` an optimizer and batch size; ``forest``: of draws;
  ``jackknife``: its intervals.
* ``clipping``: ``compute_clipping(runs, curves) -> Clipping``, where a KL clip binds.

Which is better
* ``profiles``: ``compute_profiles -> PerformanceProfile`` an optimizer.
* ``claims``: ``compute_claims(spec, evidence, looks, level) -> Claim`` a pair and question: what may be claimed, and at
  which error rate. ``looks``: how often the answer may have been looked at before.
* ``verdict``: ``Verdict``, ``Margins``; ``verdict_scaling``: ``compute_scaling_verdict``;
  ``verdict_sensitivity``: ``compute_sensitivity_verdict``. ``paired``: ``PairedComparison``, the tests.
  ``size_ratio``: of two critical batch sizes. ``scaling_obstacles``: what forbids a claim on them. ``remedies``,
  ``remedies_scaling``: ``Remedy``, what would settle it and its cost.
"""
