"""The dashboard: a Dash application over a folder or bucket of study directories, live while studies run.

``app.create_app(root) -> Dash`` builds it; nothing is global, so that a process may hold several. It reads (``store``,
``analysis``, ``figures``) and computes no statistics of its own. The browser holds names only; data stay here.

* ``address``: what an address says, every value validated. ``catalog``: the studies below the root, read once a
  version, each with its ``StudyResults``.
* ``pages``: which sections of the catalogue of exhibits each page shows. ``exhibits`` makes ``blocks`` of them:
  figures, with their data, and texts. An exhibit that is added to the catalogue is on a page without a line here.
* ``shell`` and ``filters`` are around them; ``callbacks`` moves values between address, controls and pages, and
  ``contents`` fills the blocks.
* ``security``: who may ask for what. ``jobs``: running the ``sensitivity`` command, where that is allowed.
"""
