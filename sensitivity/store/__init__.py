"""The study directory: the record of a study, on any file system that pyarrow reaches.

    study.json       the resolved study, its history of specs, provenance (``manifest``)
    plan.parquet     every planned trial, one row each: ``trial_id`` and its configuration
    runs/*.parquet   results, one row a run, append-only
    curves/*.parquet learning curves, one row an evaluation, append-only
    checkpoints/     of packs in training, one file each; gone when a pack has its results
    recorded/        of runs that the user's own loop is recording, a log each; gone when a run has its parts
    import.toml      of imported runs, how their source was read
    writer.lock      who is writing now, if anyone

``schema`` documents each column once. ``directory`` places and opens study directories, ``writer`` is
the single writer of runs that are trained here, ``recording`` one of many of runs that are trained elsewhere,
``observed`` writes imported ones; ``reader`` returns tidy tables in which every planned run has a row and a status.
A part of `curves/` is valid once the part of the same name stands in `runs/`, which is written after it.
"""
