"""Leaf codecs: an observation's leaves to slots and back, one file for each kind of leaf.

`base` defines their interface, `observation` combines them.
"""

from worldsim.models.leaves.action import ActionEncoder
from worldsim.models.leaves.observation import ObservationCodec, SlotLayout, Slots, slot_layout

__all__ = ["ActionEncoder", "ObservationCodec", "SlotLayout", "Slots", "slot_layout"]
