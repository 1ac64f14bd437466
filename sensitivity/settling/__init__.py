"""The procedure of `sensitivity settle`: requests runs, step by step, until each claim of a study has an answer.

``settle`` is a generator of steps. Its steps and answers are a function of the declaration and the results of the runs,
so an interrupted command replays it from the stored runs. The procedure runs nothing itself, reads no clock and writes
no file; ``Settling`` wraps it for callers that do. Its data types are in ``study.amendments``.

    declaration = declare(spec, spec_hash, caps)          # hashed and persisted before the first run
    settling = Settling(declaration)
    while settling.next_step is not None:
        step = settling.next_step                         # its `freeze`, if any, is persisted before the answer
        settling.answer([run(point) for point in step.points])
    print(settling.settlement.answers)

* ``declaring``: declarations from study files.
* ``boxes``, ``response``, ``search``, ``candidates``: scouting, searching, and choosing the winners.
* ``judge_scaling``, ``judge_sensitivity``: sequential tests on fresh seeds.
* ``procedure``: the generator; ``settling``: its wrapper; ``sentences``: texts of steps and answers.
"""

from sensitivity.settling.declaring import QUESTIONS, declare
from sensitivity.settling.procedure import settle
from sensitivity.settling.settling import Entry, Settling

__all__ = ["QUESTIONS", "Entry", "Settling", "declare", "settle"]
