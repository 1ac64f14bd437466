"""The parts of ``benchmarks/accelerator.py``: each a module with a function ``run(record, bench)``."""
