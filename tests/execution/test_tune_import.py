"""The folder of a plain `tune.Tuner(...).fit()`, imported and compared number by number."""

import numpy as np
import pytest

import sensitivity

STEPS = (0, 10, 20)


def accuracy(lr, seed, step):
    return lr * (step + seed) / 100


@pytest.mark.filterwarnings("ignore")  # of Tune about itself
def test_a_folder_that_plain_tune_has_written(running_ray, tmp_path, monkeypatch):
    from ray import tune

    for name in ("DISABLE_AUTO_CALLBACK_LOGGERS", "GLOBAL_CHECKPOINT_S"):  # which this package has no use for
        monkeypatch.delenv(f"TUNE_{name}", raising=False)

    def train(config):
        for step in STEPS:
            if (config["seed"], step) == (1, 20):
                raise ValueError("boom")
            tune.report({"val_accuracy": config["lr"] * (step + config["seed"]) / 100, "global_step": step})

    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={
            "lr": 0.3,
            "seed": tune.grid_search([0, 1]),
            "optimizer": "sgd",
            "batch_size": 32,
        },
        run_config=tune.RunConfig(name="experiment", storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    study = sensitivity.import_runs(tmp_path / "experiment", "mine", storage=tmp_path)
    runs = study.runs.sort_values(["param.lr", "seed"]).set_index(["param.lr", "seed"])
    assert list(runs.index) == [(0.3, 0), (0.3, 1)]
    assert list(runs["status"]) == ["completed", "failed"]
    curves = study.curves.set_index("trial_id")
    for (lr, seed), row in runs.iterrows():
        own = curves.loc[row["trial_id"]]
        steps = STEPS[: 2 if seed else 3]
        assert tuple(own["step"]) == steps
        assert np.array_equal(own["test_accuracy"], [accuracy(lr, seed, step) for step in steps])
    for result in results:  # as Tune's own reader of the folder has them
        row = runs.loc[result.config["lr"], result.config["seed"]]
        frame = result.metrics_dataframe
        assert np.array_equal(curves.loc[row["trial_id"], "test_accuracy"], frame["val_accuracy"])
        assert np.array_equal(curves.loc[row["trial_id"], "train_seconds"], frame["time_total_s"])
    assert any("Crashed or failed runs: 1" in caution for caution in study.spec.observed.cautions)
