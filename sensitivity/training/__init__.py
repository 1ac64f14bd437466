"""Training of packs of trials.

Convention of this package: training tensors have a leading *trials* dimension, written ``[trials, ...]``. A single
trial is a pack of one and is trained by the same code.

* ``problems``: data set, model and loss of a study; ``datasets``, ``models``, ``losses``: the shipped ones.
* ``packed_model``: any ``nn.Module`` as a function of stacked parameters; ``packed_layers``: its layers;
  ``packed_sequence``: a plain sequence of layers, with less overhead.
* ``order``: which examples each step draws; ``augmentation``: random crops and flips.
* ``noisy_quadratic``: a workload with a known expected outcome.
* ``loop``: ``train_pack``.
* ``cost``: FLOPs; ``calibration``: measured step time and memory of a pack; ``memory``: the allocator.
"""
