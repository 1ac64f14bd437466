"""A study as one HTML file that asks nothing of any network.

``write_report(directory)`` reads a study directory, finished or not, and returns the page. ``story`` holds
the sentences and tables, ``embed`` the figures, ``page`` puts them together; ``page.css`` and ``page.js`` are
written into it. Text from the study is escaped; figures travel as base64, which can't end a script element.
"""

from sensitivity.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
