"""Numbers to figures, tables and words: the catalogue of exhibits, which every face shows.

No statistics happen here. An exhibit computes an answer of ``analysis.study_results``, draws it as a
``plotly.graph_objects.Figure``, tabulates it and says what has to be known; where there is nothing to show it raises
``nothing.NothingToShowError`` with a sentence for the reader. Every figure states its n, takes a ``theme.Theme`` (light
or dark), and is shown with
``theme.CONFIG``. Plotly reads some HTML in text, so names from outside are escaped (``labels.safe``).

* ``catalogue``: all exhibits in order, ``find`` and ``show``; ``sections``: what they are grouped in.
* ``exhibit``: ``Exhibit``, ``Option``, ``Computed``. ``exhibits``: a file each, or a small family.
* ``tables``: ``Table``, to be read. ``data``: ``Data``, to be taken away.
* ``labels``: names, numbers and targets in words. ``verdict_words``: verdicts in sentences;
  ``verdict_text``: all of them as text.
* ``theme``: colours, template, configuration. ``panels``: panels, titles and logarithmic axes. ``traces``: points
  with intervals, bands. ``axes``: parts of panels. ``scales``: where a metric's value lies on an axis or a colour bar.
* ``grid``, ``points``, ``profile``, ``outline``: panels of robustness maps, by design.
"""
