"""Numbers to figures: one function a figure, an analysis result in, a ``plotly.graph_objects.Figure`` out.

No statistics happen here. Every figure states its n, takes a ``theme.Theme`` (light or dark), and is shown with
``theme.CONFIG``. A function that has nothing to draw raises ``nothing.NothingToShowError``. Plotly reads some HTML in
text, so names from outside are escaped (``labels.safe``).

How figures are made
* ``theme``: colours, template, configuration. ``panels``: panels, titles and logarithmic axes. ``traces``: points
  with intervals, bands. ``axes``: parts of panels.
* ``labels``: names, numbers and tick labels in words. ``scales``: where a metric's value lies on an axis or a
  colour bar.

What they show
* ``maps``: ``draw_maps``, robustness maps, as ``grid`` (heatmaps), ``points`` (drawn designs) or ``profile`` (one
  hyperparameter). ``curves``: ``draw_curves``. ``targets``: ``draw_targets``.
* ``success``: ``draw_success`` (contours), ``draw_success_3d``, ``draw_success_difference``. ``planes``:
  ``draw_planes``, where in the plane of hyperparameters a target is reached.
* ``scaling``: ``draw_scaling`` in any unit, ``draw_efficiency``, ``draw_critical``.
* ``cost``: ``draw_cost``, ``draw_time_split``. ``best_of_k``: ``draw_best_of_k``.
* ``regions``: ``draw_regions``, ``draw_sensitivity``. ``importance``: ``draw_importance``, ``draw_ridge``.
* ``comparison``: ``draw_profiles``, ``draw_verdict``.
"""
