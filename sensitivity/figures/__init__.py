"""Numbers to figures: one function a figure, an analysis result in, a ``plotly.graph_objects.Figure`` out.

No statistics happen here. Every figure states its n, takes a ``theme.Theme`` (light or dark), and is shown
with ``theme.CONFIG``. Plotly reads some HTML in text, so names from outside are escaped (``labels.safe``).

* ``theme``: colours, template, configuration.
* ``labels``: names, numbers and tick labels in words.
* ``scales``: where a metric's value lies on an axis or a colour bar.
* ``maps``: robustness maps, as ``grid`` (heatmaps), ``points`` (drawn designs) or ``profile`` (one
  hyperparameter).
* ``curves``: learning curves. ``targets``: where runs stand with respect to targets.
"""
