"""What the commands print with ``--json``: a typed model for each, from which its JSON Schema is generated.

* ``base``: what all outputs share, and how they are printed.
* ``plan``, ``runs`` (``run`` and ``verify``), ``studies`` (``list``), ``verdict``, ``jobs`` (``submit`` and
  ``status``): the models.
* ``schemas``: the outputs by command, and their schemas, which ``docs/json/`` has as files.

A command builds its model and prints that, so that a key without a description can't be printed.
"""
