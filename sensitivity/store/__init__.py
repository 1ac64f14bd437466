"""The study directory: the record of a study, on any file system that pyarrow supports.

    study.json       the resolved study, its previous versions, and provenance (``manifest``)
    plan.parquet     one row per planned trial: ``trial_id`` and its configuration
    runs/*.parquet   results, one row per run, append-only
    curves/*.parquet learning curves, one row per evaluation, append-only
    checkpoints/     one checkpoint per pack in training; deleted when the pack has its results
    recorded/        one log per run that a user's own loop is recording; deleted when the run has its parts
    import.toml      how the source of imported runs was read
    writer.lock      the current writer, if there is one

``schema`` documents each column. ``directory`` opens study directories. ``writer`` is the single writer of runs trained
by this package; ``recording`` writes runs of a user's own loop, from any number of processes; ``observed`` writes
imported runs. ``reader`` returns tidy tables in which every planned run has a row and a status. A part in `curves/` is
valid once `runs/` contains the part of the same name, which is written after it.
"""
