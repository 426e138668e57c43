"""How a framework turns NIR's continuous time into steps, as data: one entry a framework.

NIR says `tau dv/dt = (v_leak - v) + r i` and leaves open what one step of dt computes, so a graph alone does not
determine its output. A dialect settles it: for each neuron type the three coefficients of

    u[t] = (decay * v[t-1] + gain * x[t]) + leak

as expressions over the node's own parameters and dt, and the comparison that makes a spike. Adding a framework is
adding an entry here; an expression that is new gets its row in `semantics.EXPRESSIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from stdl_export.common.names import unknown


@dataclass(frozen=True)
class Rule:
    """One neuron type in one dialect. The expressions are keys of `semantics.EXPRESSIONS`; all states start at 0."""

    decay: str
    gain: str
    leak: str


@dataclass(frozen=True)
class Dialect:
    """The choices of one framework. `spike` ">" is strict: a potential exactly at the threshold stays silent."""

    name: str
    explanation: str
    spike: Literal[">"]
    types: Mapping[str, Rule]


NIR = Dialect(
    name="nir",
    explanation="forward Euler of NIR's equations, every parameter honoured, strict threshold, reset in the same step",
    spike=">",
    types=MappingProxyType(
        {
            "IF": Rule(decay="1", gain="dt*r", leak="0"),
            "LIF": Rule(decay="1-dt/tau", gain="dt/tau*r", leak="dt/tau*v_leak"),
            "LI": Rule(decay="1-dt/tau", gain="dt/tau*r", leak="dt/tau*v_leak"),
        }
    ),
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType({NIR.name: NIR})


def get(name: str) -> Dialect:
    """The dialect of that name; BadInput with the known names where there is none."""
    if name not in DIALECTS:
        raise unknown("dialect", name, DIALECTS)
    return DIALECTS[name]
