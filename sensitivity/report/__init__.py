"""Studies as one HTML file that asks nothing of any network.

``write_report(directories)`` reads study directories, finished or not, and returns the page with its figures.

* ``results``: all numbers of a study, computed once; ``choices``: which cells' learning curves.
* ``words``, ``story``: sentences. ``tables``: tables in the page. ``data``, ``figure_data``: what a figure shows, to
  be taken away.
* ``opening``, ``sections``, ``evidence``, ``several``: the parts of the page, made of ``blocks``. ``page`` puts them
  together; ``embed`` holds the figures, ``fold`` makes them smaller; ``page.css`` and ``page.js`` are written into it.
* ``images``: the figures as PNG and SVG.

Text from the study is escaped; figures and data travel in base 85 of characters that mean nothing in HTML.
"""

from sensitivity.report.page import Report, render_report, write_report

__all__ = ["Report", "render_report", "write_report"]
