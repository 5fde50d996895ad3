"""FastAPI on a volume: its endpoints run in threads, each request with a session of its own.

`uvicorn fastapi_notes:app` serves it; here it is asked a few questions without a server.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import httpx
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from sqlalchemy import orm

import graft_vfs
from graft_vfs import Config, RemoteConfig


class Base(orm.DeclarativeBase):
    """What the tables of this example have in common."""


class Note(Base):
    """A note."""

    __tablename__ = "note"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    text: orm.Mapped[str]


# IMMEDIATE: a request that reads and then writes waits for its turn, and need not be repeated.
engine = sa.create_engine("graft://notes?isolation_level=IMMEDIATE")


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Make the tables at the start."""
    Base.metadata.create_all(engine)
    yield
    engine.dispose()


app = FastAPI(lifespan=lifespan)


def session() -> Iterator[orm.Session]:
    """Give a request its session."""
    with orm.Session(engine) as opened:
        yield opened


Session = Annotated[orm.Session, Depends(session)]


# Endpoints that are no coroutines: FastAPI runs them in threads, so that a page which has to come
# from the remote keeps no other request waiting.
@app.post("/notes")
def add(text: str, session: Session) -> int:
    """Add a note, and return how many there are."""
    session.add(Note(text=text))
    session.flush()
    count = session.scalar(sa.select(sa.func.count()).select_from(Note))
    session.commit()
    return count or 0


@app.get("/notes")
def texts(session: Session) -> list[str]:
    """Return all notes."""
    return list(session.scalars(sa.select(Note.text).order_by(Note.text)))


@app.post("/push")
def push() -> str:
    """Publish what was committed."""
    return str(graft_vfs.register().push("notes"))


async def ask() -> None:
    """Post twenty notes at once, and read them."""
    transport = httpx.ASGITransport(app)
    async with (
        lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://notes") as client,
    ):
        posts = [client.post("/notes", params={"text": f"note {n:02}"}) for n in range(20)]
        counts = sorted([answer.json() for answer in await asyncio.gather(*posts)])
        print(counts == list(range(1, 21)))
        print((await client.get("/notes")).json()[-1])
        print((await client.post("/push")).json())


def main() -> None:
    """Serve from a temporary directory."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        remote = RemoteConfig(type="fs", root=str(here / "remote"))
        graft_vfs.register(Config(data_dir=here / "data", remote=remote))
        asyncio.run(ask())
        graft_vfs.unregister()


if __name__ == "__main__":
    main()
