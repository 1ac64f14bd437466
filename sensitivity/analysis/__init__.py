"""Statistics of a study: one pure function per quantity, ``compute_x(tables) -> XResult``.

``study_results``: ``StudyResults``, all analyses of one study under one view (``view``), computed on first access and
cached (``memo``). It reads the study through ``tables``: whole (``store.reader.Study``), or only the evaluations that
an analysis needs (``evaluations.read_tables``).

Inputs are the tidy tables of ``store`` (columns in ``store.schema``), or any DataFrame with those columns. Results are
frozen dataclasses, in the user's units, and carry their n; every planned run stays in the denominators. An estimate
that would be misleading is refused: its value is NaN and ``refused`` states the reason (``estimates.Estimate``).

Outcomes of runs, and designs
* ``outcomes``: the value of each run in statistics, including diverged runs. ``times``: the time at which each run
  reaches a target; scaling, cost and verdicts start from this table. ``designs``: grid, independent draws or adaptive
  search; best cells at the edge of what was searched.
* ``honest``, ``winners``: the best configuration at each batch size, timed on seeds that did not select it.
  ``nested``: the expected regret of that selection. ``grain``, ``censored``: interval-censored times.
* ``intervals``: confidence intervals and tests for few seeds. ``estimates``: ``Estimate`` and ``Caution``.
* ``names``: names of optimizers and hyperparameters in sentences.

Overview
* ``summary``: runs by status, and their cost. ``cautions``: limitations that a reader must know before concluding.
* ``maps``: the metric over the hyperparameter plane. ``curves``: learning curves of a configuration over its seeds.
* ``targets``: which runs reach each target, and when.

Scaling and cost
* ``scaling``: ``compute_scaling(times, unit) -> ScalingCurve`` per optimizer: time to target of the best
  configuration, efficiency, edges; its points and cautions are in ``scaling_points`` and ``scaling_cautions``.
  ``critical``: ``CriticalBatchSize``, its fit and interval.
* ``cost``: ``compute_cost(runs) -> Cost`` per optimizer and batch size; ``compute_cost_ratios -> CostRatio``.
  ``time_split``: ``compute_time_split(runs) -> TimeSplit``, the time of a step by phase.

Hyperparameter sensitivity
* ``success``: ``compute_success -> SuccessSurface`` per optimizer, over batch size x target;
  ``compute_success_difference -> SuccessDifference``. ``success_plane``: ``compute_success_planes(times) ->
  SuccessPlane``. ``rates``: success rates with their intervals.
* ``price``: ``compute_prices -> TuningPrice`` per optimizer and batch size: expected trials and cost until a random
  setting reaches the target; ``compute_price_ratios -> PriceRatio``. ``draws``: which runs are draws, and the
  independent blocks that they form; ``ratios``: Fieller's interval over blocks; ``betting``: anytime-valid tests.
* ``regions``: ``compute_regions -> RobustRegion`` per optimizer and batch size, in decades; ``volumes``: its volume by
  interpolation.
* ``best_of_k``: ``compute_best_of_k -> BestOfK`` per optimizer and batch size, in trials and device-seconds.
* ``lr_sensitivity``: ``compute_lr_sensitivity -> LrSensitivity`` per optimizer and batch size.
* ``tuning``: ``compute_tuning -> Tuning`` per optimizer: one setting for all batch sizes, tunability, effective
  dimension. ``scores``: the array of scores that they start from.
* ``importance``: ``compute_importance -> Importance`` per optimizer and batch size; ``forest``: the regression for
  independent draws; ``jackknife``: intervals.
* ``clipping``: ``compute_clipping(runs, curves) -> Clipping``: where K-FAC's KL clip is active.

Comparison of optimizers
* ``profiles``: ``compute_profiles -> PerformanceProfile`` per optimizer.
* ``claims``: ``compute_claims(spec, evidence, looks, level) -> Claim`` per pair and question: what may be claimed, and
  at which error rate. ``looks``: the number of interim looks at the results so far.
* ``verdict``: ``Verdict``, ``Margins``; ``verdict_scaling``: ``compute_scaling_verdict``;
  ``verdict_sensitivity``: ``compute_sensitivity_verdict``. ``paired``: ``PairedComparison`` and its tests.
  ``size_ratio``: the ratio of two critical batch sizes. ``scaling_obstacles``: reasons that rule out a claim on
  scaling. ``remedies``, ``remedies_scaling``: ``Remedy``, a change that would settle a question, and its cost.
"""
