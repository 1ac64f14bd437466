"""The nouns of a study, free of torch and Ray.

* ``axes``: a hyperparameter's fixed value, list, or interval (log or linear), as a grid or a box.
* ``spec``: ``StudySpec``, the validated study file; ``load``: TOML in, every mistake out at once.
* ``editable``: a study made and changed in Python; ``session_code``: functions of a notebook, by their source.
* ``designs``: grids, random and Sobol draws -> cells.
* ``trials``: ``Workload``, ``Trial`` (a cell and a seed, identified by content), ``Pack``.
* ``schedule``: budgets and learning-rate multipliers as pure functions.
* ``results``: ``Status``, ``Measurement``, ``RunResult``.
* ``metrics``: what is measured, and which way is better.
* ``words``: numbers, counts, durations and sizes as every face writes them.
* ``seeds``, ``provenance``, ``errors``.
"""
