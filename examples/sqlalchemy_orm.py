"""SQLAlchemy on volumes: `graft://tag` is a URL like any other, with the past and clones in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import sqlalchemy as sa
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


def texts(url: str) -> list[str]:
    """Return the notes of a database, in order."""
    engine = sa.create_engine(url)
    with orm.Session(engine) as session:
        found = [note.text for note in session.scalars(sa.select(Note).order_by(Note.id))]
    engine.dispose()
    return found


def main() -> None:
    """Store objects, push twice, then read the first push beside the second one, and a clone."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        remote = RemoteConfig(type="fs", root=str(here / "remote"))
        graft_vfs.register(Config(data_dir=here / "data", remote=remote))

        engine = sa.create_engine("graft://main")
        Base.metadata.create_all(engine)
        with orm.Session(engine) as session:
            session.add(Note(text="first"))
            session.commit()
            print(session.scalar(sa.text("PRAGMA graft_push")))
            session.add(Note(text="second"))
            session.commit()
            with session.begin_nested() as savepoint:
                session.add(Note(text="a mistake"))
                session.flush()
                savepoint.rollback()
            session.commit()
            print(session.scalar(sa.text("PRAGMA graft_push")))
        engine.dispose()

        print("now:  ", texts("graft://main"))
        print("then: ", texts("graft://main?lsn=1"))
        graft_vfs.unregister()

        # Another machine: a clone is made when its tag is first opened.
        graft_vfs.register(Config(data_dir=here / "elsewhere", remote=remote))
        print("clone:", texts("graft://copy?remote=main"))
        graft_vfs.unregister()


if __name__ == "__main__":
    main()
