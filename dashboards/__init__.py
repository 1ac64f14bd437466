"""The dashboard: a Dash application over a folder or bucket of study directories, live while studies run.

``app.create_app(root) -> Dash`` builds it; nothing is global, so a process may hold several. It reads results
(``store``, ``analysis``, ``figures``) and computes no statistics of its own. The browser holds names only; data stay
on the server.

* ``address``: parses an address, with every value validated. ``catalog``: the studies below the root, read once per
  version, each with its ``StudyResults``.
* ``pages``: which sections of the catalogue of exhibits each page shows. ``exhibits`` turns them into ``blocks``:
  figures, with their data, and texts. A new exhibit in the catalogue appears on a page without a change here.
* ``shell`` and ``filters`` frame the pages; ``callbacks`` moves values between address, controls and pages, and
  ``contents`` fills the blocks.
* ``security``: which requests are allowed. ``jobs``: runs the ``sensitivity`` command, where that is allowed.
"""
