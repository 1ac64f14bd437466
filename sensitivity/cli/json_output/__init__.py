"""Outputs of the commands with ``--json``: a typed model for each, from which its JSON Schema is generated.

* ``base``: conventions of all outputs, and how they are printed.
* ``plan``, ``runs`` (``run`` and ``verify``), ``studies`` (``list``), ``verdict``, ``jobs`` (``submit`` and
  ``status``): the models.
* ``schemas``: the outputs by command, and their schemas, which are stored in ``docs/json/``.

A command builds its model and prints it, so that a key without a description can't be printed.
"""
