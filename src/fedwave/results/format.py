"""Numbers for people: ``9.0 MB``, ``1.2 kJ``, ``3 min 12 s``."""

from __future__ import annotations

import math

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
MISSING = "-"


def si(value: float | None, unit: str) -> str:
    """``value`` with a decimal SI prefix: one decimal below 100, none above; none for whole numbers of a unit."""
    if value is None or not math.isfinite(value):
        return MISSING if value is None or math.isnan(value) else f"{'-' if value < 0 else ''}∞ {unit}"
    if value == 0:
        return f"0 {unit}"
    size = abs(value)
    # 0.9995 and more of the next prefix would round up to 1000 of this one.
    factor, prefix = next(((f, p) for f, p in _PREFIXES if size >= 0.9995 * f), _PREFIXES[-1])
    scaled = value / factor
    whole = prefix == "" and float(value).is_integer()
    return f"{scaled:.{0 if whole or abs(scaled) >= 99.95 else 1}f} {prefix}{unit}"


def duration(seconds: float | None) -> str:
    """``850 ms``, ``12.3 s``, ``3 min 12 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds is None or not math.isfinite(seconds) or abs(seconds) < 59.95:
        return si(seconds, "s")
    sign, left = ("-" if seconds < 0 else ""), abs(seconds)
    for size, name, smaller, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if round(left / smaller) * smaller >= size:
            big, small = divmod(round(left / smaller), size // smaller)
            return f"{sign}{big} {name} {small} {small_name}"
    raise AssertionError(seconds)


def data(bits: float | None) -> str:
    """Bits as bytes: ``9.0 MB``."""
    return si(None if bits is None else bits / 8, "B")
