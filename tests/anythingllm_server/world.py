"""Everything one stand-in holds: its behaviour, its chance, its counters, and what it keeps.

The indexes here follow from what is kept; whoever changes a row, a vector or a document does it through this module.
"""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.anythingllm_server.behaviour import Behaviour, Fault, FaultKind
from tests.anythingllm_server.counters import Counters, add
from tests.anythingllm_server.embedding import Vector, nearest, vector_of
from tests.anythingllm_server.records import (
    CUSTOM,
    Cached,
    Chat,
    Folder,
    Row,
    StoredDocument,
    StoredVector,
    Table,
    Thread,
    Workspace,
)
from tests.anythingllm_server.shelf import Kept, Shelf


class World:
    """One server's memory and disk.

    Args:
        behaviour: how it behaves at first.
        routes: names of all routes; a fault that names another one is refused, for it would never happen.
        state: the folder that outlives a restart; ``None``: nothing does.

    Raises:
        ValueError: a fault names an unknown route.
    """

    def __init__(self, behaviour: Behaviour, routes: frozenset[str], state: Path | None = None) -> None:
        self._routes = routes
        self.behaviour = self._checked(behaviour)
        self.chance = random.Random(behaviour.seed)  # noqa: S311 - repeatable chance is the point
        self.counters = Counters()
        self.collector, self.searching = asyncio.Lock(), asyncio.Lock()
        self.hotdir: dict[str, bytes] = {}
        self.windows: dict[FaultKind, float] = {}
        self.collector_deaths = 0
        self._injected: Counter[FaultKind] = Counter()
        self._shelf = Shelf(state)
        self._documents = Kept(self._shelf, StoredDocument)
        self.folders = Kept(self._shelf, Folder)
        self.cached = Kept(self._shelf, Cached)
        self.workspaces = Kept(self._shelf, Workspace)
        self.threads = Kept(self._shelf, Thread)
        self.chats = Kept(self._shelf, Chat)
        self.tables = Kept(self._shelf, Table)
        self._rows = Kept(self._shelf, Row)
        self._stored_vectors = Kept(self._shelf, StoredVector)
        self._in_folder: dict[str, dict[str, StoredDocument]] = defaultdict(dict)
        self._in_workspace: dict[int, list[Row]] = defaultdict(list)
        self._in_table: dict[str, dict[str, tuple[StoredVector, Vector]]] = defaultdict(dict)
        for document in self._documents:
            self._in_folder[document.folder][document.name] = document
        for row in self._rows:
            self._in_workspace[row.workspace_id].append(row)
        for stored in self._stored_vectors:
            self._in_table[stored.table][stored.id] = (stored, self.vector(stored.text))
        kept: list[Iterable[Row | Workspace | Thread | Chat]] = [self._rows, self.workspaces, self.threads, self.chats]
        self._number = max((thing.id for things in kept for thing in things), default=0)
        if CUSTOM not in self.folders:
            self.folders.put(CUSTOM, Folder(name=CUSTOM))

    def close(self) -> None:
        """Give the files back."""
        self._shelf.close()

    def number(self) -> int:
        """Return a new id."""
        self._number += 1
        return self._number

    # Behaviour.

    def change(self, changes: dict[str, object]) -> None:
        """Behave otherwise from now on.

        Raises:
            ValueError: a field is unknown or out of its range, or a fault names an unknown route.
        """
        self.behaviour = self._checked(self.behaviour.changed(changes))
        if "faults" in changes:
            self._injected.clear()
        if "seed" in changes:
            self.chance.seed(self.behaviour.seed)

    def _checked(self, behaviour: Behaviour) -> Behaviour:
        unknown = {route for fault in behaviour.faults.values() for route in fault.routes} - self._routes
        if unknown:
            raise ValueError(
                f"no route is called {', '.join(sorted(unknown))}; there are {', '.join(sorted(self._routes))}"
            )
        return behaviour

    def draw(self, kind: FaultKind, route: str) -> bool:
        """Decide whether this fault happens to a request of this route now, and count it if it does."""
        fault: Fault | None = self.behaviour.faults.get(kind)
        if fault is None or (fault.routes and route not in fault.routes):
            return False
        spent = fault.most is not None and self._injected[kind] >= fault.most
        if spent or self.chance.random() >= fault.rate:
            return False
        self._injected[kind] += 1
        add(self.counters.faults, kind)
        add(self.counters.fault_routes, f"{route} {kind}")
        return True

    def open_window(self, kind: FaultKind) -> None:
        """Begin an outage of ``window_seconds``."""
        self.windows[kind] = time.monotonic() + self.behaviour.window_seconds

    def kill_collector(self) -> None:
        """End the collector with all that it holds; it is back after a while."""
        self.collector_deaths += 1
        self.counters.collector_deaths += 1
        self.windows[FaultKind.COLLECTOR_DOWN] = time.monotonic() + self.behaviour.collector_restart_seconds

    @property
    def is_down(self) -> bool:
        """Whether the server itself is being restarted, after its collector died."""
        return self.behaviour.dies_with_collector and self._in_window(FaultKind.COLLECTOR_DOWN)

    @property
    def collector_is_down(self) -> bool:
        return self.behaviour.collector_down or self._in_window(FaultKind.COLLECTOR_DOWN)

    @property
    def embedder_is_down(self) -> bool:
        return self.behaviour.embedder_down or self._in_window(FaultKind.EMBEDDER_DOWN)

    def _in_window(self, kind: FaultKind) -> bool:
        return time.monotonic() < self.windows.get(kind, 0.0)

    def vector(self, text: str) -> Vector:
        return vector_of(text, self.behaviour.opposite_word)

    # Documents.

    def put_folder(self, name: str) -> None:
        """Make a folder, if there is none of this name."""
        if name not in self.folders:
            self.folders.put(name, Folder(name=name))

    def put_document(self, document: StoredDocument) -> None:
        """Store a document, in place of one with the same location."""
        self.put_folder(document.folder)
        self._documents.put(document.location, document)
        self._in_folder[document.folder][document.name] = document

    def drop_document(self, location: str) -> None:
        """Remove a document with its cached vectors, and in each workspace one row of it (§3.6)."""
        document = self._documents.pop(location)
        self.cached.pop(location)
        if document is not None:
            self._in_folder[document.folder].pop(document.name, None)
        for workspace in self.workspaces:
            self.drop_row(workspace, location)

    def take_document(self, location: str) -> StoredDocument | None:
        """Return a document and take it from the disk, its rows left as they are."""
        if (document := self._documents.pop(location)) is not None:
            self._in_folder[document.folder].pop(document.name, None)
        return document

    def document(self, location: str) -> StoredDocument | None:
        return self._documents.get(location)

    def documents_in(self, folder: str) -> list[StoredDocument]:
        return list(self._in_folder[folder].values())

    def is_embedded(self, location: str) -> bool:
        return any(row.location == location for rows in self._in_workspace.values() for row in rows)

    # Rows and vectors.

    def rows(self, workspace: Workspace) -> list[Row]:
        """Return the rows of a workspace, oldest first."""
        return list(self._in_workspace[workspace.id])

    def add_row(self, workspace: Workspace, document: StoredDocument, doc_id: str) -> None:
        """List a document in a workspace."""
        self.put_row(Row.of(document, self.number(), doc_id, workspace.id))

    def put_row(self, row: Row) -> None:
        """Keep a row, in place of what had its id."""
        rows = self._in_workspace[row.workspace_id]
        self._rows.put(str(row.id), row)
        self._in_workspace[row.workspace_id] = sorted(
            [*(other for other in rows if other.id != row.id), row], key=lambda each: each.id
        )

    def drop_row(self, workspace: Workspace, location: str) -> None:
        """Remove the oldest row of a location, with its vectors, if there is one."""
        rows = self._in_workspace[workspace.id]
        row = next((row for row in rows if row.location == location), None)
        if row is None:
            return
        rows.remove(row)
        self._rows.pop(str(row.id))
        for stored, _ in list(self._in_table[workspace.slug].values()):
            if stored.doc_id == row.doc_id:
                self._drop_vector(stored)

    def add_vectors(self, slug: str, document: StoredDocument, doc_id: str, chunks: list[str]) -> None:
        """Put the pieces of a document into a workspace's vector table."""
        for text in chunks:
            stored = StoredVector(table=slug, doc_id=doc_id, text=text, facts=document.facts)
            self._stored_vectors.put(stored.id, stored)
            self._in_table[slug][stored.id] = (stored, self.vector(text))

    def make_table(self, slug: str) -> set[str]:
        """Make a workspace's vector table, empty, and return whose vectors were in the one it takes the place of."""
        replaced = [stored for stored, _ in self._in_table[slug].values()]
        for stored in replaced:
            self._drop_vector(stored)
        self.tables.put(slug, Table(slug=slug, dimensions=self.behaviour.embedder_dimensions))
        return {stored.doc_id for stored in replaced}

    def takes_vectors(self, slug: str) -> bool:
        """Return whether vectors of today's embedder fit into a workspace's table, if it has one."""
        table = self.tables.get(slug)
        return table is None or table.dimensions == self.behaviour.embedder_dimensions

    def vector_count(self, slug: str | None = None) -> int:
        """Return the number of vectors, of one workspace or of all."""
        return len(self._stored_vectors) if slug is None else len(self._in_table[slug])

    def search(self, slug: str, question: Vector, most: int) -> list[tuple[StoredVector, float]]:
        """Return the nearest pieces with their distances, nearest first."""
        table = list(self._in_table[slug].values())
        found = nearest(question, [vector for _, vector in table], most)
        return [(table[position][0], distance) for position, distance in found]

    def drop_workspace(self, workspace: Workspace) -> None:
        """Remove a workspace with all but its documents (§2)."""
        for row in self._in_workspace.pop(workspace.id, []):
            self._rows.pop(str(row.id))
        self.make_table(workspace.slug)
        self.tables.pop(workspace.slug)
        for thread in [thread for thread in self.threads if thread.workspace_id == workspace.id]:
            self.threads.pop(thread.slug)
        for chat in [chat for chat in self.chats if chat.workspace_id == workspace.id]:
            self.chats.pop(str(chat.id))
        self.workspaces.pop(workspace.slug)

    def _drop_vector(self, stored: StoredVector) -> None:
        self._stored_vectors.pop(stored.id)
        self._in_table[stored.table].pop(stored.id, None)


def new_hex(chance: random.Random) -> str:
    """Return 4 random hex digits (§3.1: the folder of a workbook)."""
    return f"{chance.randrange(16**4):04x}"
