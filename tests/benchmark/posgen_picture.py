"""The picture of PosGen: accuracy by place in the document, a panel for each rule, a line for each method."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from xml.sax.saxutils import escape

WIDTH, HEIGHT, GAP, LEFT, TOP = 270, 190, 26, 46, 30
LAST, TRAINED = 256, 64
# A colour and a dash for each method: YaRN is dashed, in the colour of what it changes.
STYLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "rope": ("#1f5fa8", ""),
        "yarn": ("#1f5fa8", "6 3"),
        "yarn_64": ("#1f5fa8", "2 2"),
        "resonance": ("#c4472b", ""),
        "resonance_yarn": ("#c4472b", "6 3"),
        "resonance_yarn_64": ("#c4472b", "2 2"),
        "fope": ("#7a3fa0", ""),
        "nope": ("#6b6b6b", ""),
        "rnope_swa": ("#1e8a4c", ""),
    }
)
Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


def draw(curves: Curves, labels: Mapping[str, str]) -> str:
    """The picture. curves: by rule and method, points (place, accuracy), a mean over seeds. labels: of the methods."""
    parts, rules = [], list(curves)
    for index, rule in enumerate(rules):
        parts += _panel(LEFT + index * (WIDTH + GAP), rule, curves[rule])
    wide = LEFT + len(rules) * (WIDTH + GAP)
    shown = [name for name in STYLES if any(name in curves[rule] for rule in rules)]
    legend = TOP + HEIGHT + 48
    for number, name in enumerate(shown):
        row, column = divmod(number, 3)
        parts += _entry(LEFT + column * (WIDTH + GAP), legend + 20 * row, name, labels[name])
    tall = legend + 20 * -(-len(shown) // 3)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" '
        f'height="{tall}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _panel(left: float, rule: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    """Axes, grid and lines of one rule."""
    parts = [_text(left, TOP - 12, rule.replace("_", " "), "start")]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        parts.append(_path([(left, y), (left + WIDTH, y)], "#dddddd", "", 1))
        if left == LEFT:
            parts.append(_text(left - 6, y + 4, f"{share:.0%}", "end"))
    for place in (0, 64, 128, 192, 256):
        parts.append(_text(_x(left, place), TOP + HEIGHT + 16, str(place), "middle"))
    border = _x(left, TRAINED)
    parts.append(_path([(border, TOP), (border, TOP + HEIGHT)], "#222222", "3 3", 1))
    parts.append(_text(left + WIDTH / 2, TOP + HEIGHT + 32, "place in the document", "middle"))
    for name, points in lines.items():
        at = [(_x(left, place), _y(share)) for place, share in points]
        parts.append(_path(at, *STYLES[name], 1.8))
    return parts


def _entry(left: float, y: float, name: str, label: str) -> list[str]:
    """A line of the legend."""
    return [
        _path([(left, y - 4), (left + 34, y - 4)], *STYLES[name], 1.8),
        _text(left + 42, y, label, "start"),
    ]


def _x(left: float, place: float) -> float:
    return left + WIDTH * place / LAST


def _y(share: float) -> float:
    return TOP + HEIGHT * (1.0 - share)


def _path(points: Sequence[tuple[float, float]], colour: str, dash: str, width: float) -> str:
    drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{drawn}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="#222222" text-anchor="{anchor}">{escape(words)}</text>'
