"""Running a plan: the only room that names Ray.

* ``prepare``: from a study file to a checked plan and its packs.
* ``costs``: pack sizes and prices, by measurement; ``cost_cache`` keeps them.
* ``worker``: one pack, wherever it runs; failures become results here.
* ``session``: Ray, started quietly or joined by address.
* ``runner``: Ray Tune distributes packs; the driver writes the study directory.
* ``progress``: what a display is told.
"""
