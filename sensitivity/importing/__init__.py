"""Import of runs that were trained elsewhere, as ordinary study directories.

    source (``tables``, ``sources``) --> one table --> ``mapping``: the role of each column --> ``runs``: runs, their
    evaluations and their defects --> ``inference``: the study that they form --> ``store``

* ``tables``: CSV, Parquet and JSON lines. ``sources``: stores of other tools, one file per tool.
* ``columns``: column names that are recognised. ``guess``: a mapping derived from them, with open questions.
* ``mapping``: the TOML file that describes how to read a source, which users can correct.
* ``runs``: runs with a status each, from a table and a mapping, and counts of defects.
* ``inference``: axes, grids and seeds of the runs; ``study``: the complete import.
"""
