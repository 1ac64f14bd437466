"""The nouns of a study, free of torch and Ray.

* ``axes``: a hyperparameter's fixed value, list, or interval (log or linear), as a grid or a box.
* ``spec``: ``StudySpec``, the validated study file; ``load``: parses TOML and reports every mistake at once.
* ``editable``: building and changing studies in Python; ``session_code``: notebook functions kept as source.
* ``designs``: grids, random and Sobol draws of configurations.
* ``trials``: ``Workload``, ``Trial`` (a cell and a seed, identified by content), ``Pack``.
* ``schedule``: budgets and learning-rate multipliers as pure functions.
* ``results``: ``Status``, ``Measurement``, ``RunResult``.
* ``metrics``: measured quantities and their directions.
* ``words``: formatting of numbers, counts, durations and sizes, shared by all interfaces.
* ``seeds``, ``provenance``, ``errors``.
"""
