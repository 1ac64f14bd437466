"""The procedure of `sensitivity settle`: which runs to ask for next, until each claim of a study has its answer.

``settle`` is a generator of steps: a declaration and what the runs of each step came to fix its steps and its answers,
so a command that was interrupted replays it from the runs that the store has. It runs nothing itself, reads no clock
and writes no file; ``Settling`` wraps it for those who do. The nouns are in ``study.amendments``.

    declaration = declare(spec, spec_hash, caps)          # hashed and persisted before the first run
    settling = Settling(declaration)
    while settling.next_step is not None:
        step = settling.next_step                         # its `freeze`, if it has one, is persisted before the answer
        settling.answer([run(point) for point in step.points])
    print(settling.settlement.answers)

* ``declaring``: from a study file to a declaration.
* ``boxes``, ``response``, ``search``, ``candidates``: scouting, searching, and the choice of the winners.
* ``judge_scaling``, ``judge_sensitivity``: looks and bets on fresh seeds.
* ``procedure``: the generator; ``settling``: its wrapper; ``sentences``: what is said.
"""

from sensitivity.settling.declaring import QUESTIONS, declare
from sensitivity.settling.procedure import settle
from sensitivity.settling.settling import Entry, Settling

__all__ = ["QUESTIONS", "Entry", "Settling", "declare", "settle"]
