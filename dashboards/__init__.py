"""The interactive dashboard's room: it reads ``store``, ``analysis`` and ``figures``, never a runner."""
