"""What generated games are made of: two rooms, their receptacles, and objects with what can be done to them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thing:
    """An object class. can: of "heat", "cool", "clean", "slice", "hold" (things lie in it). places: where it may be."""

    can: frozenset[str]
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """receptacles: {class: most of it in one room}, `always` those that no room lacks. things: its objects."""

    receptacles: dict[str, int]
    always: tuple[str, ...]
    things: dict[str, Thing]


def _things(can: str, places: tuple[str, ...], *names: str) -> dict[str, Thing]:
    return {name: Thing(frozenset(can.split()), places) for name in names}


OPENABLE = ("Cabinet", "Drawer", "Fridge", "Microwave", "Safe")
LAMP = "DeskLamp"
APPLIANCE = {"heat": "Microwave", "cool": "Fridge", "clean": "SinkBasin"}

_TABLES = ("CounterTop", "DiningTable")
_FOOD = (*_TABLES, "Fridge", "Microwave", "SinkBasin", "GarbageCan")
_DISH = (*_TABLES, "Cabinet", "Shelf", "Fridge", "Microwave", "SinkBasin", "CoffeeMachine")
_DESKS = ("Desk", "Dresser", "Shelf", "SideTable", "Drawer", "Bed", "Safe")

KITCHEN = Room(
    receptacles={"Cabinet": 4, "CounterTop": 2, "DiningTable": 1, "Drawer": 3, "GarbageCan": 1, "Shelf": 2}
    | {"StoveBurner": 2, "CoffeeMachine": 1, "Fridge": 1, "Microwave": 1, "SinkBasin": 1},
    always=("Cabinet", "CounterTop", "Fridge", "Microwave", "SinkBasin"),
    things=_things("heat cool clean slice", _FOOD, "Apple", "Potato", "Tomato")
    | _things("heat cool slice", _FOOD, "Bread", "Egg")
    | _things("cool clean slice", _FOOD, "Lettuce")
    | _things("heat cool clean hold", _DISH, "Mug", "Plate")
    | _things("heat cool clean", _DISH, "Cup")
    | _things("cool clean hold", (*_TABLES, "Cabinet", "StoveBurner", "SinkBasin"), "Pan", "Pot")
    | _things("clean", (*_TABLES, "Drawer", "SinkBasin"), "ButterKnife", "Fork", "Knife", "Spatula", "Spoon")
    | _things("", (*_TABLES, "Cabinet", "Drawer", "Shelf"), "PepperShaker", "SaltShaker")
    | _things("", (*_TABLES, "Cabinet", "GarbageCan", "SinkBasin"), "SoapBottle"),
)
BEDROOM = Room(
    receptacles={"Bed": 1, "Desk": 1, "Drawer": 5, "Dresser": 1}
    | {"GarbageCan": 1, "Safe": 1, "Shelf": 3, "SideTable": 2},
    always=("Desk", "Drawer", "SideTable"),
    things=_things("", _DESKS, "Book", "CD", "CellPhone", "KeyChain", "Watch")
    | _things("", ("Desk", "Dresser", "Shelf", "SideTable", "Drawer", "GarbageCan"), "Pen", "Pencil")
    | _things("", ("Desk", "Dresser", "Shelf", "SideTable"), "AlarmClock", "Mug")
    | _things("", ("Desk", "Dresser", "Bed"), "Laptop")
    | _things("hold", ("Bed", "Desk", "Shelf", "SideTable"), "Box")
    | _things("", ("Desk", "Dresser", "SideTable"), LAMP),
)
FIXTURES = ("LightSwitch", "Window")
"""Objects that lie in no receptacle and can be neither taken nor used."""
