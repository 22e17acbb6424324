"""Chemical elements by number and by symbol."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

PERIODS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr",
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu",
    "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr",
    "Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og",
)
SYMBOLS = [symbol for period in PERIODS for symbol in period.split()]
"""By atomic number; X, of none, is 0."""
WANTED = "atomic numbers or symbols of elements, as [1, 8] or ['H', 'O']"
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}


def atomic_numbers(name: str, elements: Iterable[Any]) -> list[int]:
    """Of elements that are given as atomic numbers or symbols, in their order.

    Args:
        name: of the argument.
        elements: whole numbers 1 … 118 of any type, or symbols as ``"H"`` and ``"Na"``.

    Raises:
        TypeError: it is one string, or no sequence.
        ValueError: one of them is no element.
    """
    if isinstance(elements, str | bytes) or not isinstance(elements, Iterable):
        raise TypeError(f"{name} must be a sequence of {WANTED}, got {elements!r}")
    return [_atomic_number(name, element) for element in elements]


def different(name: str, numbers: list[int]) -> list[int]:
    """The same; ValueError if there are none, or one of them is there twice."""
    twice = sorted({SYMBOLS[number] for number in numbers if numbers.count(number) > 1})
    if twice or not numbers:
        raise ValueError(f"{name} must be different {WANTED}, got {f'{twice} twice' if twice else 'none'}")
    return numbers


def _atomic_number(name: str, element: Any) -> int:
    try:
        known = NUMBERS.get(element, 0) if isinstance(element, str) else operator.index(element)
        number = 0 if isinstance(element, bool) else known
    except TypeError:
        number = 0
    if not 1 <= number < len(SYMBOLS):
        raise ValueError(f"{name} must be {WANTED}, got {element!r}")
    return number
