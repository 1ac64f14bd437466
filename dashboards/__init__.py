"""The dashboard: a Dash application over a folder or bucket of study directories, live while studies run.

``app.create_app(root) -> Dash`` builds it; nothing is global, so that a process may hold several. It reads (``store``,
``analysis``, ``figures``) and computes no statistics of its own. The browser holds names only; data stay here.

* ``view``: what the address says, every value validated. ``catalog``: the studies below the root, read once a version.
  ``results``: the analysis of a study as filtered, each result computed once. ``memo``: how.
* ``pages``: one file a page, each a list of ``blocks`` (figures, with their data, and texts). ``shell`` and
  ``filters`` are around them; ``callbacks`` moves values between address, controls and blocks.
* ``security``: who may ask for what. ``jobs``: running the ``sensitivity`` command, where that is allowed.
"""
