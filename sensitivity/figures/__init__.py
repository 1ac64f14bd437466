"""Figures, tables and sentences from numbers: the exhibits that report, dashboard, terminal and Python show.

No statistics happen here. An exhibit computes an answer of ``analysis.study_results``, draws it as a
``plotly.graph_objects.Figure``, tabulates it and adds notes that help to read it. Where there is nothing to show it
raises ``nothing.NothingToShowError`` with a sentence for the reader. Every figure states its n, takes a
``theme.Theme`` (light or dark), and is displayed with ``theme.CONFIG``. Plotly interprets some HTML in text, so names
that come from users are escaped (``labels.safe``).
* ``catalogue``: all exhibits in order, ``find`` and ``show``; ``sections``: the sections that group them.
* ``exhibit``: ``Exhibit``, ``Option``, ``Computed``. ``exhibits``: one module per exhibit or small family of exhibits.
* ``tables``: ``Table``, for display. ``data``: ``Data``, for download.
* ``labels``: names, numbers and targets in words. ``verdict_words``: verdicts in sentences;
  ``verdict_text``: the whole verdict as text.
* ``theme``: colours, template, configuration. ``panels``: panels, titles and logarithmic axes. ``traces``: points
* ``theme``: colours, template, configuration. ``panels``: panels, titles, logarithmic axes. ``traces``: points with
  intervals, bands. ``axes``: panel titles and axes. ``scales``: positions of metric values on axes and colour bars.
"""
