"""The Python face: what ``import sensitivity`` offers. Its names are those of ``sensitivity.__all__`` alone.

* ``opened``: ``open`` and ``OpenedStudy``, a study directory to be read; it loads neither torch nor Ray.
* ``importing``: ``import_runs``, runs made elsewhere as a study directory.
* ``recording``: ``record`` and ``trials``, runs of the user's own loop; it loads neither torch nor Ray.
* ``running``: ``plan``, ``run`` and ``shutdown``.
* ``priced``: ``StudyPrice``, what ``plan`` returns.
* ``progress``: the line that a script or a notebook shows while a study runs.
"""
