"""The round as a picture: who does what when, to scale in time. ``python docs/_ext/round_picture.py > docs/round.svg``.

Colours are furo's own variables, so that the picture follows the page from light to dark.
"""

from __future__ import annotations

import sys

WIDTH, LEFT, ROW, BAR = 860, 132, 62, 30
SCALE = (WIDTH - LEFT - 20) / 34.0  # pixels a second: 34 s fit
DEADLINE = 27.0
INK, QUIET, LINE = "var(--color-foreground-primary)", "var(--color-foreground-muted)", "var(--color-foreground-border)"
COLOURS = {"down": "#2b6fb3", "compute": "#ad6713", "up": "#1f7f56", "server": "#7463b0"}

# (name, what, [(start s, end s, kind, text)]); one whose last piece reaches the deadline is late
CLIENTS = [
    ("client 4", "phone, near", [(0, 1.6, "down", ""), (1.6, 12.2, "compute", "train"), (12.2, 16, "up", "send")]),
    ("client 9", "Jetson", [(0, 3, "down", ""), (3, 5.4, "compute", "train"), (5.4, 16, "up", "send")]),
    ("client 17", "phone, behind walls",
     [(0, 7, "down", "2 receive"), (7, 17.6, "compute", "3 train"), (17.6, DEADLINE, "up", "4 send")]),
]  # fmt: skip


def x(seconds: float) -> float:
    """Where a time stands."""
    return LEFT + seconds * SCALE


def text(at: float, y: float, content: str, *, size: float = 13, fill: str = INK, more: str = "") -> str:
    """A line of text."""
    return f'<text x="{at:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" {more}>{content}</text>'


def bar(start: float, end: float, y: float, kind: str, label: str) -> str:
    """A coloured piece of time."""
    wide = (end - start) * SCALE
    box = (
        f'<rect x="{x(start):.1f}" y="{y:.1f}" width="{wide - 1.5:.1f}" height="{BAR}" rx="3" fill="{COLOURS[kind]}"/>'
    )
    middle = x((start + end) / 2)
    return box + (text(middle, y + 20, label, size=12, fill="#fff", more='text-anchor="middle"') if label else "")


def picture() -> str:
    """The SVG."""
    top = 16
    out = [
        text(0, top + 20, "server", more='font-weight="600"'),
        text(x(0) + 8, top + 20, "1 select the cohort, broadcast"),
        bar(DEADLINE, DEADLINE + 0.8, top, "server", ""),
        text(x(DEADLINE + 0.8) + 6, top + 12, "5 aggregate,"),
        text(x(DEADLINE + 0.8) + 6, top + 29, "evaluate, record"),
    ]
    for index, (name, what, pieces) in enumerate(CLIENTS):
        out += _client(top + (index + 1) * ROW, name, what, pieces)
    bottom = top + (len(CLIENTS) + 1) * ROW - 8
    out += _marks(top, bottom)
    return (
        f'<svg viewBox="0 0 {WIDTH} {bottom + 26}" xmlns="http://www.w3.org/2000/svg" role="img" '
        'font-family="inherit" aria-label="One round: the server selects three clients and broadcasts; each receives, '
        'trains and sends; two are in before the deadline, one is late; the server aggregates what is in.">\n'
        + "\n".join(out)
        + "\n</svg>\n"
    )


def _client(y: float, name: str, what: str, pieces: list[tuple[float, float, str, str]]) -> list[str]:
    out = [text(0, y + 13, name, more='font-weight="600"'), text(0, y + 29, what, size=11.5, fill=QUIET)]
    out += [bar(start, end, y, kind, label) for start, end, kind, label in pieces]
    end = x(pieces[-1][1])
    if pieces[-1][1] < DEADLINE:
        return [*out, text(end + 6, y + 20, "in time: waits", size=12, fill=QUIET)]
    torn = f'<path d="M{end - 4:.1f} {y - 3} l8 {BAR / 2 + 3} l-8 {BAR / 2 + 3}" stroke="{INK}" fill="none"/>'
    return [*out, torn, text(end + 12, y + 20, "late: not counted", size=12, fill=QUIET)]


def _marks(top: float, bottom: float) -> list[str]:
    lines = [
        f'<path d="M{x(at):.1f} {top - 4} V{bottom}" stroke="{colour}" stroke-dasharray="4 4"/>'
        for at, colour in ((0, LINE), (DEADLINE, INK))
    ]
    return [
        *lines,
        f'<line x1="{x(0):.1f}" y1="{bottom}" x2="{WIDTH - 4}" y2="{bottom}" stroke="{LINE}"/>',
        text(x(DEADLINE), bottom + 18, "deadline", size=12, more='text-anchor="middle"'),
        text(x(0), bottom + 18, "start of the round", size=12),
        text(WIDTH - 4, bottom + 18, "simulated time", size=12, fill=QUIET, more='text-anchor="end"'),
    ]


if __name__ == "__main__":
    sys.stdout.write(picture())
