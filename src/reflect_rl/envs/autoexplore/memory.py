"""What a player has seen in an episode. Nothing here knows the target."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, takewhile

from reflect_rl.envs.autoexplore.query import Query
from reflect_rl.envs.autoexplore.reading import Page
from reflect_rl.envs.autoexplore.view import Place, View

BEST_SCORE = 9
"""The best score that is told; the worst is 0."""
Spot = tuple[int, int]
"""A folder, and a page of its listing from 0."""


class FileRead:
    """What was read of a file.

    Args:
        query: The question's words.
    """

    def __init__(self, query: Query) -> None:
        self.pages: dict[int, Page] = {}
        self._query = query
        self._match: float | None = None

    def add(self, page: Page) -> None:
        """Read a page."""
        if page.number not in self.pages:
            self.pages[page.number] = page
            self._match = None

    @property
    def match(self) -> float:
        """How well the pages that were read match the question, from 0 to 1."""
        if self._match is None:
            self._match = self._query.match(self.pages.values())
        return self._match

    @property
    def score(self) -> int:
        """The match as it is told: 0 to 9."""
        return min(BEST_SCORE, int((BEST_SCORE + 1) * self.match))

    @property
    def unread(self) -> list[int]:
        """Numbers of the pages that were not read, in order."""
        pages = next(iter(self.pages.values())).pages
        return (
            [] if pages == len(self.pages) else [number for number in range(1, pages + 1) if number not in self.pages]
        )


class Memory:
    """What was listed and read in an episode.

    Attributes:
        view: What there is to be seen.
        query: The question's words.
        place: Where the player is.
        read: The files of which a page was read, in the order of their first reading.
        last: The file read last and its page; None if the last action was another.
        listed: Pages of the listing that were shown, by folder.
    """

    def __init__(self, view: View, query: Query, place: Place) -> None:
        self.view, self.query, self.place = view, query, place
        self.read: dict[int, FileRead] = {}
        self.last: tuple[int, Page] | None = None
        self.listed: dict[int, set[int]] = {}
        self.arrive(place)

    def arrive(self, place: Place) -> None:
        """Come to a folder, or to another page of its listing."""
        self.place, self.last = place, None
        self.listed.setdefault(place.folder, set()).add(place.page)

    def reads(self, node: int, page: Page) -> None:
        """Read a page of a file."""
        if node not in self.read:
            self.read[node] = FileRead(self.query)
        self.read[node].add(page)
        self.last = node, page

    def next_page(self, node: int) -> int:
        """The page that `cat` shows next, from 1; after the last one the first again."""
        if node in self.read and self.read[node].unread:
            return self.read[node].unread[0]
        is_shown = self.last is not None and self.last[0] == node
        return self.last[1].number % self.last[1].pages + 1 if self.last and is_shown else 1

    def best(self) -> tuple[int, ...]:
        """The files read that match best; empty before the first."""
        top = max((each.match for each in self.read.values()), default=0.0)
        return tuple(node for node, each in self.read.items() if each.match == top)

    def is_unread(self, node: int) -> bool:
        """Whether a page of the file is still to be read."""
        return node not in self.read or bool(self.read[node].unread)

    def is_open(self, folder: int) -> bool:
        """Whether a page of the folder's listing was not shown yet."""
        return len(self.listed.get(folder, ())) < self.view.pages(folder)

    def known_folders(self) -> Iterator[int]:
        """The folders that were entered or listed, each once."""
        yield self.view.root
        for folder, pages in self.listed.items():
            for page in sorted(pages):
                yield from self.view.place(folder, page).folders

    def known_files(self, folder: int) -> Iterator[int]:
        """The files of a folder that were listed."""
        for page in sorted(self.listed.get(folder, ())):
            yield from self.view.place(folder, page).files

    def listing(self, folder: int) -> tuple[int, int]:
        """How many folders and files of a folder were listed."""
        places = [self.view.place(folder, page) for page in self.listed.get(folder, ())]
        return sum(len(place.folders) for place in places), sum(len(place.files) for place in places)

    def depth(self, folder: int) -> int:
        """How many folders below the root a folder lies; 0 for the root."""
        return len(self.view.way(folder)) - 1

    def folder(self, node: int) -> int:
        """The folder that holds a node."""
        return self.view.tree.parent(node)

    def at(self, node: int) -> Spot:
        """Where a node is listed."""
        return self.folder(node), self.view.page_of(node)

    def unseen(self, folder: int) -> Spot:
        """The first page of an open folder's listing that was not shown yet."""
        shown = self.listed.get(folder, set())
        return folder, next(page for page in range(self.view.pages(folder)) if page not in shown)

    def distance(self, to: Spot, start: Spot | None = None) -> int:
        """Steps from one page of a listing to another, by default from the player's: `cd`, and `ls` for each page."""
        at, page = start or (self.place.folder, self.place.page)
        here, there = self.view.way(at), self.view.way(to[0])
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(here, there, strict=False)))
        steps = len(here) - same
        page = 0 if steps else page
        for above, below in pairwise(there[same - 1 :]):
            steps += self._turns(above, page, self.view.page_of(below)) + 1
            page = 0
        return steps + self._turns(to[0], page, to[1])

    def _turns(self, folder: int, page: int, to: int) -> int:
        """How often `ls` leads from a page to another; after the last page comes the first."""
        return (to - page) % self.view.pages(folder)

    def named(self, node: int) -> int:
        """How many words of the question stand in a path."""
        return self.query.named(self.view.path(node))
