"""Reports of studies as one HTML file that needs no network, and exhibits of a study as files.

``write_report(directories)`` reads study directories, finished or not, and returns the page with its figures;
``render_exhibit`` returns a page with one exhibit.

* ``page`` assembles the page from ``parts``, which ``templates/`` render as HTML.
* ``exhibits`` iterates over the catalogue; ``opening``, ``several`` and ``provenance`` are the sections without
  exhibits. ``story`` contains their sentences.
* ``embed`` packs the figures and their data.
* ``images``: figures as PNG and SVG.

Text from the study is escaped by the templates; figures and data are embedded in base 64.
"""

from sensitivity.report.page import Report, render_exhibit, render_report, write_report

__all__ = ["Report", "render_exhibit", "render_report", "write_report"]
