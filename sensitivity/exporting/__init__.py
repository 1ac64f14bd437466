"""A study's runs sent to tools that track runs: while it runs, and after the fact, by the same code.

What is sent is read from the study directory, so training, Ray and searches know nothing of it. A *target* is a tool at
an address (``mlflow:http://...``; ``study.trackers``), a *tracker* an open connection to one.

* ``runs``: a finished run as any tool takes it, and the finished runs of a study directory.
* ``artefacts``: the verdict, the report and the figures as files.
* ``sending``: what a target lacks is sent to it.
* ``follower`` does so in a process of its own while a study runs, which ``live`` starts, listens to and ends.
* ``destinations``: a file for each tool.
"""
