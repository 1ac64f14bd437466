"""Export of a study's runs to experiment trackers, during and after a study, by the same code.

Runs are read from the study directory, so training, Ray and searches do not depend on the export. A *target* is a tool
at an address (``mlflow:http://...``; ``study.trackers``), and a *tracker* is an open connection to one.

* ``runs``: finished runs of a study directory, in a form common to all tools.
* ``artefacts``: the verdict, the report and the figures as files.
* ``sending``: sends the runs that a target lacks.
* ``follower``: a separate process that sends runs while a study runs; ``live`` starts, monitors and ends it.
* ``destinations``: one file per tool.
"""
