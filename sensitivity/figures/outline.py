"""The outline of a set of grid cells along their edges."""

from __future__ import annotations

from collections.abc import Collection

Corner = tuple[int, int]


def outline(cells: Collection[tuple[int, int]]) -> list[tuple[list[float], list[float]]]:
    """Return closed loops ``(xs, ys)`` around `cells`, given as (column, row), with cell centres at integers.

    Edges run with the region on their left, so holes are separate loops, and cells that touch only at a corner are
    outlined separately.
    """
    region = set(cells)
    following: dict[Corner, list[Corner]] = {}
    for x, y in sorted(region):
        sides = (
            ((x, y - 1), (x, y), (x + 1, y)),
            ((x + 1, y), (x + 1, y), (x + 1, y + 1)),
            ((x, y + 1), (x + 1, y + 1), (x, y + 1)),
            ((x - 1, y), (x, y + 1), (x, y)),
        )
        for neighbour, start, end in sides:
            if neighbour not in region:
                following.setdefault(start, []).append(end)
    loops = []
    while following:
        start = next(iter(following))
        loop = [start, _take(following, start, None)]
        while loop[-1] != start:
            loop.append(_take(following, loop[-1], loop[-2]))
        loops.append(([x - 0.5 for x, _ in loop], [y - 0.5 for _, y in loop]))
    return loops


def _take(following: dict[Corner, list[Corner]], corner: Corner, before: Corner | None) -> Corner:
    """Remove an edge that starts at `corner` and return its end; if there are two, take the one that turns left."""
    ends = following[corner]
    chosen = ends[0]
    if len(ends) > 1 and before is not None:
        dx, dy = corner[0] - before[0], corner[1] - before[1]
        left = (corner[0] - dy, corner[1] + dx)
        chosen = left if left in ends else ends[0]
    ends.remove(chosen)
    if not ends:
        del following[corner]
    return chosen
