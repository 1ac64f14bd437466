"""Studies as one HTML file that asks nothing of any network, and exhibits of a study as files.

``write_report(directories)`` reads study directories, finished or not, and returns the page with its figures;
``render_exhibit`` returns a page with one exhibit.

* ``page`` puts the page together, of ``parts``, which ``templates/`` make HTML of.
* ``exhibits`` iterates over the catalogue; ``opening``, ``several`` and ``provenance`` are the parts that no exhibit
  is. ``story`` holds their sentences.
* ``embed`` holds the figures and their data.
* ``images``: figures as PNG and SVG.

Text from the study is escaped by the templates; figures and data travel in base 64.
"""

from sensitivity.report.page import Report, render_exhibit, render_report, write_report

__all__ = ["Report", "render_exhibit", "render_report", "write_report"]
