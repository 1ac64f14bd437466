"""Training of packs: problems in, measurements out.

Convention of this room: a tensor of training has a leading *trials* dimension, written ``[trials, ...]``;
a single trial is a pack of one and takes the same path.

* ``problems``: data set, model and loss of a study; ``datasets``, ``models``, ``losses``: the shipped ones.
* ``packed_model``: any ``nn.Module`` as a function of stacked parameters; ``packed_layers``: its layers;
  ``packed_sequence``: a plain sequence of them, at less cost.
* ``order``: which examples each step draws; ``augmentation``: random crops and flips of them.
* ``noisy_quadratic``: a workload whose outcome is known.
* ``loop``: ``train_pack``.
* ``cost``: FLOPs; ``calibration``: a step's time and a pack's memory, measured; ``memory``: the allocator.
"""
