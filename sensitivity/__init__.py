"""How far an optimizer scales with batch size, and how sensitive it is to its hyperparameters.

Data flows one way through the rooms of this package:

    study file -> ``study`` (nouns, plan) -> ``execution`` (Ray) -> ``training`` (packs, ``kfac``)
        -> ``store`` (study directory) -> ``analysis`` -> ``figures`` -> ``report``, dashboards

* ``kfac``: the K-FAC optimizer, usable on its own with any PyTorch model.
* ``study``: study files, designs, trials, packs, statuses, provenance.
* ``training``: problems, schedules and the training loop over a pack of trials.
* ``store``: the study directory, append-only Parquet read as tidy tables.
* ``execution``: the only room that names Ray.
* ``analysis``: tables to numbers with intervals.
* ``figures``: numbers to Plotly figures.
* ``report``, ``cli``: one static HTML file; the commands.

Importing this module imports none of them.
"""
