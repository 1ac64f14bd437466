"""Runs made elsewhere, as ordinary study directories.

    source (``tables``, ``sources``) --> one table --> ``mapping``: what each column is --> ``runs``: runs and their
    evaluations, and what is wrong with them --> ``inference``: the study that they make up --> ``store``

* ``tables``: CSV, Parquet and JSON lines. ``sources``: what other tools keep, a file each.
* ``columns``: names by which columns are known. ``guess``: a mapping from them, and what has to be asked.
* ``mapping``: the TOML file that says how a source is read; what a user corrects.
* ``runs``: from a table and a mapping to runs with a status each, and defects with a count each.
* ``inference``: axes, grids and seeds of runs; ``study``: all of it together.
"""
