"""Numbers, times and lengths as the report words them, in the terminal and on the page alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"
_SMALLEST_P = 0.001
_SMALL, _THOUSAND, _LARGE = 1e-3, 1000, 1e6
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def percent(share: float | None, digits: int = 1) -> str:
    """A share as `71.0 %`."""
    return MISSING if share is None else f"{share * 100:.{digits}f} %"


def interval(low: float, high: float) -> str:
    """An interval of shares as `67.1-74.6`, in percent."""
    return f"{low * 100:.1f}\N{EN DASH}{high * 100:.1f}"


def points(difference: float) -> str:
    """A difference of shares as `+12.3 pts`."""
    value = f"{abs(difference) * 100:.1f}"
    sign = "" if value == "0.0" else ("+" if difference > 0 else MINUS)
    return f"{sign}{value} pts"


def coefficient(value: float | None) -> str:
    """A correlation as `+0.12`."""
    if value is None:
        return MISSING
    text = f"{abs(value):.2f}"
    sign = "" if text == "0.00" else ("+" if value > 0 else MINUS)
    return f"{sign}{text}"


def p_value(p: float) -> str:
    """A p value with as many digits as mean something."""
    return f"< {_SMALLEST_P}" if p < _SMALLEST_P else f"{p:.3f}"


def number(value: float | None) -> str:
    """A number with about four digits: `0.0123`, `2,391`, `1.5e-5`."""
    if value is None:
        return MISSING
    size = abs(value)
    if value and not _SMALL <= size < _LARGE:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    else:
        whole = size >= _THOUSAND or value == int(value)
        text = f"{value:,.0f}" if whole else f"{value:.4g}"
    return text.replace("-", MINUS)


def moment(time: datetime | None) -> str:
    """A time as `2026-09-14 10:02 UTC`."""
    return MISSING if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def span(length: timedelta | None) -> str:
    """A length of time as `4 min 12 s`, its two largest units."""
    if length is None:
        return MISSING
    seconds = max(0, round(length.total_seconds()))
    if seconds < _MINUTE:
        return f"{seconds} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE} min {seconds % _MINUTE} s"
    if seconds < _DAY:
        return f"{seconds // _HOUR} h {seconds % _HOUR // _MINUTE} min"
    return f"{seconds // _DAY} d {seconds % _DAY // _HOUR} h"
