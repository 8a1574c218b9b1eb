"""The errors that a user meets; the command line turns each into one sentence and an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedwaveError(Exception):
    """Base of every error that fedwave raises on purpose; ``exit_code`` is what the command returns."""

    exit_code = 1


class BadInput(FedwaveError, ValueError):
    """The job, a file or an argument is wrong. The message is one sentence that names it."""

    exit_code = 2


class Refused(BadInput):
    """Each part is valid, the combination is not. The message says why."""


class Infeasible(FedwaveError):
    """The job is valid and cannot work on these devices or this network."""

    exit_code = 3


def unknown(what: str, name: str, known: Iterable[str], *, of: str = "") -> BadInput:
    """The sentence for a name (of something) that nothing answers to: the nearest known one, then all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return BadInput(f"unknown {what} {name!r}{' of ' if of else ''}{of}{hint} (known: {', '.join(known) or 'none'})")
