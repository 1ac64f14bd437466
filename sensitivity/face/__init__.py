"""The Python interface: implementation of the names that ``import sensitivity`` exports (``sensitivity.__all__``).

* ``opened``: ``open``, ``OpenedStudy`` and ``Verdict``, which read a study directory; loads neither torch nor Ray.
* ``importing``: ``import_runs``, which converts runs made elsewhere to a study directory.
* ``recording``: ``record`` and ``trials``, for runs of the user's own training loop; loads neither torch nor Ray.
* ``running``: ``plan``, ``run``, ``settle`` and ``shutdown``.
* ``priced``: ``StudyPrice``, the result of ``plan``.
* ``progress``: the status line that a script or a notebook shows while a study runs.
"""
