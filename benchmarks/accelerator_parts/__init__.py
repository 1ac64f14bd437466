"""The parts of ``benchmarks/accelerator.py``: each is a module with a function ``run(record, bench)``."""
