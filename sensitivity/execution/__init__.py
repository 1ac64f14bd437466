"""Running a plan: the only room that names Ray or Optuna.

* ``prepare``: from a study file to a checked plan and its packs.
* ``costs``: pack sizes and prices, by measurement; ``cost_cache`` keeps them. ``pricing``: what is missing of a study.
* ``worker``: one pack, wherever it runs; failures become results here. ``checkpointing`` puts it aside meanwhile.
* ``worker_process``: where packs are trained; ``worker_pool`` keeps these processes from pack to pack and run to run.
* ``pack_scheduler``: what is trained next, and what becomes of a pack whose worker was lost.
* ``searches``: trials that become known as a study runs; ``sampler`` asks Optuna for them, by ``objectives``.
* ``session``: Ray, started quietly or joined by address; ``executor`` keeps it across runs of one process.
* ``runner``: Ray Tune distributes packs; the driver writes the study directory. ``worker_tasks``: their other tasks.
* ``loading``: a problem as it was planned, in every process; ``verification``: recorded runs trained again.
* ``interruption``, ``ray_watch``, ``worker_stderr``: how a command ends, and what is said when something is lost.
* ``progress``: what a display is told; ``messages`` puts it, and the outcome, in words.
* ``optuna_export``: a study as an Optuna storage.
"""
