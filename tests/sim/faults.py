"""What goes wrong, as switches that a schedule turns and dice that every call throws.

A switch is a state of the world for a while (the API server is down); a die is thrown at each call with the seed's
own chance (no answer though the call was taken). Every fault that struck is counted by kind.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random


@dataclass(slots=True)
class Faults:
    """``chance`` by die; all zero and every switch off is a world where nothing goes wrong."""

    rng: Random
    chance: dict[str, float] = field(default_factory=dict)
    switches: set[str] = field(default_factory=set)
    struck: Counter[str] = field(default_factory=Counter)
    last_s: float = 0.0
    slow: bool = False
    """A world of slow blocks: who does not answer lets one wait, so that hours of it cost few tries."""

    def on(self, name: str) -> bool:
        if name not in self.switches:
            return False
        self.struck[name] += 1
        return True

    def die(self, name: str) -> bool:
        chance = self.chance.get(name, 0.0)
        if chance and self.rng.random() < chance:
            self.struck[name] += 1
            return True
        return False

    def calm(self) -> None:
        """No more faults from here on."""
        self.chance.clear()
        self.switches.clear()
