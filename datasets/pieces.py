"""How each of the ten classes of furniture is put together.

Every maker fills the box from -0.5 to 0.5 along x and y and from 0 to about 1 along z; its front
looks along +y. Which parts there are, and how many, is drawn; what makes the class stays.
"""

from collections.abc import Callable

import numpy as np

from datasets.solids import Solid, box, loft, moved, outline, stack

Parts = list[tuple[str, Solid]]


def _legs(g: np.random.Generator, x: float, y: float, top: float, name: str = "leg") -> Parts:
    """Four legs around the origin, their centers at ``x`` and ``y`` to either side."""
    thick = g.uniform(0.05, 0.1)
    curve = outline(thick, thick, corners=4 if g.random() < 0.5 else 10)
    leg = stack(curve, [(0, g.uniform(0.6, 1.0)), (top, 1)])
    x, y = x - thick / 2, y - thick / 2
    return [(name, moved(leg, (sx * x, sy * y, 0))) for sx in (-1, 1) for sy in (-1, 1)]


def _drawers(
    g: np.random.Generator,
    low: tuple[float, float],
    high: tuple[float, float],
    front: float,
    grid: tuple[int, int],
) -> Parts:
    """Drawer fronts with gaps and knobs on the plane y = ``front``; corners are (x, z)."""
    columns, rows = grid
    gap, deep = g.uniform(0.03, 0.05), g.uniform(0.03, 0.05)
    wide, tall = (high[0] - low[0]) / columns, (high[1] - low[1]) / rows
    knob = stack(outline(0.04, 0.04, corners=8), [(-0.02, 1), (0.02, 1)])
    parts: Parts = []
    for i in range(columns):
        for j in range(rows):
            x, z = low[0] + i * wide, low[1] + j * tall
            start = (x + gap / 2, front, z + gap / 2)
            end = (x + wide - gap / 2, front + deep, z + tall - gap / 2)
            parts.append(("drawer", box(start, end)))
            middle = (x + wide / 2, front + deep + 0.02, z + tall / 2)
            parts.append(("knob", moved(knob, middle)))
    return parts


def _table(g: np.random.Generator) -> Parts:
    thick = g.uniform(0.05, 0.09)
    corners = 24 if g.random() < 0.35 else 4
    parts: Parts = [("top", stack(outline(1, 1, corners=corners), [(1 - thick, 1), (1, 1)]))]
    inset = g.uniform(0.36, 0.48) * (0.75 if corners > 4 else 1)
    if g.random() < 0.25:
        wide = g.uniform(0.1, 0.16)
        parts.append(("leg", stack(outline(wide, wide, corners=12), [(0, 1), (1 - thick, 1)])))
        foot = outline(0.6, 0.6, corners=4 if g.random() < 0.5 else 16)
        parts.append(("foot", stack(foot, [(0, 1), (0.06, 0.9)])))
        return parts
    parts += _legs(g, inset, inset, 1 - thick)
    if g.random() < 0.3:
        z, deep = g.uniform(0.15, 0.4), inset - 0.06
        parts.append(("shelf", box((-deep, -deep, z), (deep, deep, z + 0.04))))
    return parts


def _desk(g: np.random.Generator) -> Parts:
    thick, inside = g.uniform(0.05, 0.09), g.uniform(0.12, 0.22)
    parts: Parts = [("top", box((-0.5, -0.5, 1 - thick), (0.5, 0.5, 1)))]
    sides = [(-0.48, -inside)] + ([(inside, 0.48)] if g.random() < 0.35 else [])
    floor = g.uniform(0, 0.1)
    for left, right in sides:
        parts.append(("cabinet", box((left, -0.46, floor), (right, 0.42, 1 - thick))))
        grid = (1, int(g.integers(2, 5)))
        parts += _drawers(g, (left, floor), (right, 1 - thick), 0.42, grid)
    if len(sides) == 1:
        if g.random() < 0.5:
            parts.append(("panel", box((0.42, -0.46, 0), (0.48, 0.44, 1 - thick))))
        else:
            parts += _legs(g, 0.46, 0.46, 1 - thick)[2:]
    if g.random() < 0.7:
        low = g.uniform(0.2, 0.6)
        parts.append(("panel", box((-0.46, -0.46, low), (0.46, -0.41, 1 - thick))))
    return parts


def _chair(g: np.random.Generator) -> Parts:
    seat, thick = g.uniform(0.42, 0.54), g.uniform(0.05, 0.09)
    parts: Parts = [("seat", box((-0.5, -0.5, seat - thick), (0.5, 0.5, seat)))]
    parts += _legs(g, 0.49, 0.49, seat - thick)
    post = g.uniform(0.05, 0.08)
    if g.random() < 0.4:
        parts.append(("back", box((-0.48, -0.5, seat + 0.05), (0.48, -0.5 + post, 1))))
    else:
        for x in (-0.48, 0.48 - post):
            parts.append(("back", box((x, -0.5, seat), (x + post, -0.5 + post, 1))))
        count = int(g.integers(2, 5))
        for z in np.linspace(seat + 0.1, 0.88, count):
            parts.append(("slat", box((-0.45, -0.49, z), (0.45, -0.46, z + 0.3 / count))))
    if g.random() < 0.3:
        for x in (-0.5, 0.44):
            z = seat + 0.2
            parts.append(("arm", box((x, -0.46, z), (x + 0.06, 0.35, z + 0.05))))
            parts.append(("arm", box((x, 0.3, seat), (x + 0.06, 0.35, z))))
    return parts


def _toilet(g: np.random.Generator) -> Parts:
    rim, deep = g.uniform(0.42, 0.54), g.uniform(0.62, 0.75)
    curve = outline(0.85, deep, corners=20, squareness=g.uniform(2, 3))
    foot, inner = g.uniform(0.5, 0.75), g.uniform(0.72, 0.82)
    levels = [(0, foot), (0.3 * rim, foot * 0.9), (0.8 * rim, 0.95), (rim, 1)]
    levels += [(rim, inner), (0.5 * rim, inner * 0.5)]
    parts: Parts = [("bowl", moved(stack(curve, levels), (0, 0.5 - deep / 2, 0)))]
    low, back = g.uniform(rim - 0.15, rim), 0.5 - deep - 0.02
    parts.append(("tank", box((-0.45, -0.5, low), (0.45, back, 0.93))))
    parts.append(("lid", box((-0.5, -0.5, 0.93), (0.5, back + 0.03, 1))))
    parts.append(("base", box((-0.2, -0.45, 0), (0.2, 0, low))))
    if g.random() < 0.5:
        lid, thick = outline(0.8, (0.98 - rim) * 0.8, corners=20), 0.04
        points, faces = stack(lid, [(0, 1), (thick, 1)])
        points = np.stack([points[:, 0], points[:, 2] + back + 0.03, points[:, 1]], axis=1)
        place = (0, 0, (rim + 0.95) / 2)
        parts.append(("cover", moved((points, faces[:, ::-1]), place)))
    return parts


def _cushion(width: float, depth: float, height: float) -> Solid:
    """A box with rounded edges, standing on z = 0."""
    curve = outline(width, depth, corners=20, squareness=8)
    levels = [(0, 0.9), (0.2, 0.98), (0.5, 1), (0.8, 0.98), (1, 0.9)]
    return stack(curve, [(z * height, k) for z, k in levels])


def _sofa(g: np.random.Generator) -> Parts:
    seat, back, arm = g.uniform(0.32, 0.42), g.uniform(0.2, 0.28), g.uniform(0.12, 0.18)
    parts: Parts = [("base", box((-0.5, -0.5, 0.08), (0.5, 0.5, seat)))]
    parts += _legs(g, 0.46, 0.46, 0.08)
    parts.append(("back", moved(_cushion(1, back, 1 - seat), (0, -0.5 + back / 2, seat))))
    sides = [(-1, 1), (-1,), (1,)][g.choice(3, p=[0.7, 0.15, 0.15])]
    tall = g.uniform(0.2, 0.35)
    for side in sides:
        parts.append(("arm", moved(_cushion(arm, 1, tall), (side * (0.5 - arm / 2), 0, seat))))
    left = -0.5 + arm * (-1 in sides)
    right = 0.5 - arm * (1 in sides)
    count = int(g.integers(1, 4))
    wide, deep = (right - left) / count, 1 - back
    for i in range(count):
        cushion = _cushion(wide * 0.96, deep * 0.98, g.uniform(0.12, 0.18))
        place = (left + (i + 0.5) * wide, -0.5 + back + deep / 2, seat)
        parts.append(("cushion", moved(cushion, place)))
    return parts


def _bed(g: np.random.Generator) -> Parts:
    frame, soft = g.uniform(0.3, 0.42), g.uniform(0.15, 0.25)
    low = g.uniform(0.12, 0.2)
    parts: Parts = [("frame", box((-0.5, -0.5, low), (0.5, 0.5, frame)))]
    parts += _legs(g, 0.5, 0.5, low)
    mattress = _cushion(0.96, 0.92, soft)
    parts.append(("mattress", moved(mattress, (0, 0.01, frame))))
    parts.append(("headboard", box((-0.5, -0.5, low), (0.5, -0.44, 1))))
    if g.random() < 0.5:
        high = g.uniform(0.5, 0.8)
        parts.append(("footboard", box((-0.5, 0.45, low), (0.5, 0.5, high))))
    for x in [(0,), (-0.24, 0.24), ()][g.choice(3, p=[0.3, 0.5, 0.2])]:
        parts.append(("pillow", moved(_cushion(0.4, 0.22, 0.12), (x, -0.3, frame + soft))))
    return parts


def _bathtub(g: np.random.Generator) -> Parts:
    low = 0.0 if g.random() < 0.6 else g.uniform(0.1, 0.15)
    box_like = 20.0 if g.random() < 0.5 else g.uniform(3, 5)
    outer = outline(1, 1, corners=28, squareness=box_like)
    inner = outline(1, 1, corners=28, squareness=g.uniform(3, 6))
    foot, rim, slope = g.uniform(0.75, 1), g.uniform(0.82, 0.9), g.uniform(0.6, 0.75)
    rings = [(outer, low, foot), (outer, 0.9, 1), (outer, 1, 1), (inner, 1, rim)]
    rings += [(inner, 0.5, rim * 0.92), (inner, low + 0.12, slope)]
    shell = loft([np.column_stack([c * k, np.full(len(c), z)]) for c, z, k in rings])
    parts: Parts = [("tub", shell)]
    if low:
        parts += _legs(g, 0.35, 0.35, low + 0.05, "foot")
    if g.random() < 0.6:
        pipe = stack(outline(0.05, 0.05, corners=8), [(1, 1), (1.15, 1)])
        parts.append(("tap", moved(pipe, (0, -0.46, 0))))
        parts.append(("tap", box((-0.025, -0.48, 1.12), (0.025, -0.32, 1.16))))
    return parts


def _dresser(g: np.random.Generator) -> Parts:
    floor = g.uniform(0.04, 0.12)
    parts: Parts = [("body", box((-0.48, -0.5, floor), (0.48, 0.44, 0.95)))]
    parts.append(("top", box((-0.5, -0.5, 0.95), (0.5, 0.48, 1))))
    if g.random() < 0.5:
        parts += _legs(g, 0.48, 0.44, floor)
    else:
        parts.append(("plinth", box((-0.45, -0.45, 0), (0.45, 0.4, floor))))
    grid = (int(g.integers(1, 4)), int(g.integers(3, 6)))
    parts += _drawers(g, (-0.48, floor), (0.48, 0.95), 0.44, grid)
    return parts


def _night_stand(g: np.random.Generator) -> Parts:
    floor, thick = g.uniform(0.08, 0.25), g.uniform(0.04, 0.07)
    middle = g.uniform(0.5, 0.65)
    parts: Parts = [("top", box((-0.5, -0.5, 1 - thick), (0.5, 0.5, 1)))]
    parts.append(("bottom", box((-0.48, -0.48, floor), (0.48, 0.46, floor + thick))))
    for x in (-0.48, 0.48 - thick):
        parts.append(("side", box((x, -0.48, floor), (x + thick, 0.46, 1 - thick))))
    if g.random() < 0.7:
        parts.append(("back", box((-0.48, -0.48, floor), (0.48, -0.48 + thick, 1 - thick))))
    inside = 0.48 - thick
    parts.append(("body", box((-inside, -0.44, middle), (inside, 0.44, 1 - thick))))
    parts += _drawers(g, (-inside, middle), (inside, 1 - thick), 0.44, (1, int(g.integers(1, 3))))
    return parts + _legs(g, 0.48, 0.46, floor)


def _monitor(g: np.random.Generator) -> Parts:
    low, thick, at = g.uniform(0.22, 0.4), g.uniform(0.06, 0.14), g.uniform(-0.2, 0.2)
    parts: Parts = [("screen", box((-0.5, at, low), (0.5, at + thick, 1)))]
    if g.random() < 0.5:
        deep = at - g.uniform(0.08, 0.15)
        parts.append(("case", box((-0.35, deep, low + 0.1), (0.35, at, 0.9))))
    wide = g.uniform(0.08, 0.2)
    parts.append(("neck", box((-wide / 2, at - 0.06, 0), (wide / 2, at, low + 0.2))))
    if g.random() < 0.5:
        foot = outline(g.uniform(0.5, 0.8), 1, corners=20)
    else:
        foot = outline(g.uniform(0.5, 0.9), 1)
    parts.append(("foot", stack(foot, [(0, 1), (g.uniform(0.04, 0.08), 0.95)])))
    return parts


MAKERS: dict[str, Callable[[np.random.Generator], Parts]] = {
    "bathtub": _bathtub,
    "bed": _bed,
    "chair": _chair,
    "desk": _desk,
    "dresser": _dresser,
    "monitor": _monitor,
    "night_stand": _night_stand,
    "sofa": _sofa,
    "table": _table,
    "toilet": _toilet,
}
