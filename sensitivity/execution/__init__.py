"""Execution of plans: the only package that imports Ray or Optuna.

* ``prepare``: validated plans from study files, and their packs.
* ``costs``: measured pack sizes and prices; ``cost_cache`` stores them. ``pricing``: the price of a study's missing
runs. * ``worker``: trains one pack; failures become results. ``checkpointing`` saves and restores it. *
``worker_process``: processes in which packs are trained; ``worker_pool`` reuses them for several packs and runs. *
``pack_scheduler``: chooses the next pack, and handles packs whose worker was lost. * ``searches``: trials that are
generated as a study runs; ``sampler`` chooses them with Optuna, from ``objectives``. * ``session``: starts Ray or joins
a cluster; ``executor`` keeps Ray across the runs of a process. * ``runner``: distributes packs with Ray Tune and writes
the study directory. ``worker_tasks``: other tasks of workers. * ``loading``: loads the planned problem in every
process; ``verification``: trains recorded runs again. * ``interruption``, ``ray_watch``, ``worker_stderr``: stops, lost
processes, and their messages. * ``progress``: counts and rates for displays; ``messages``: texts about progress and
outcome. * ``optuna_export``: export of a study to an Optuna storage.
"""
