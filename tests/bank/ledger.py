"""The bank's database: accounts, a journal of transfers, and what is true of both in any snapshot.

Money only moves. So in every snapshot, on whatever machine and of whatever age, the balances sum up
to what the accounts were opened with, and each balance is what the journal says it must be.
"""

from __future__ import annotations

import random

import apsw

ACCOUNTS = 300
OPENING = 1000
_WIDE_EVERY = 12
"""Each twelfth account has a note of several pages, so that transfers rewrite overflow pages."""
_NOTE_BYTES, _WIDE_NOTE_BYTES = 150, 9000
_AMOUNT_MAX = 50


def open_bank(connection: apsw.Connection) -> None:
    """Make the tables of an empty volume; small pages, so that there are many of them."""
    connection.pragma("page_size", 1024)
    connection.execute(
        "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, note BLOB);"
        "CREATE INDEX account_balance ON account(balance);"
        "CREATE TABLE transfer(id INTEGER PRIMARY KEY, ref TEXT NOT NULL, payer INTEGER NOT NULL,"
        " payee INTEGER NOT NULL, amount INTEGER NOT NULL);"
        "CREATE INDEX transfer_ref ON transfer(ref)"
    )
    with connection:
        connection.executemany(
            "INSERT INTO account VALUES(?, ?, zeroblob(?))",
            (
                (number, OPENING, _NOTE_BYTES if number % _WIDE_EVERY else _WIDE_NOTE_BYTES)
                for number in range(1, ACCOUNTS + 1)
            ),
        )


def transfer(connection: apsw.Connection, chance: random.Random, ref: str, begin: str) -> None:
    """Move money between two accounts and write it into the journal; one transaction.

    Raises apsw.BusyError with nothing done; the caller tries again.
    """
    payer, payee = chance.sample(range(1, ACCOUNTS + 1), 2)
    connection.execute(begin)
    try:
        ((balance,),) = connection.execute("SELECT balance FROM account WHERE id = ?", (payer,))
        amount = min(balance, chance.randint(1, _AMOUNT_MAX))
        for account, change in ((payer, -amount), (payee, amount)):
            connection.execute(
                "UPDATE account SET balance = balance + ?, note = randomblob(length(note)) "
                "WHERE id = ?",
                (change, account),
            )
        connection.execute(
            "INSERT INTO transfer(ref, payer, payee, amount) VALUES(?, ?, ?, ?)",
            (ref, payer, payee, amount),
        )
        connection.execute("COMMIT")
    except apsw.BusyError:
        connection.execute("ROLLBACK")
        raise


def audit(connection: apsw.Connection) -> int:
    """Fail unless the snapshot that the connection reads is right; returns its transfers.

    All statements must see one snapshot, so they run in one transaction, the caller's or an own.
    """
    if not connection.in_transaction:
        with connection:
            return audit(connection)
    expected = [(ACCOUNTS, ACCOUNTS * OPENING)]
    by_table = "SELECT count(*), sum(balance) FROM account NOT INDEXED"
    by_index = "SELECT count(*), sum(balance) FROM account INDEXED BY account_balance"
    assert connection.execute(by_table).fetchall() == expected
    assert connection.execute(by_index).fetchall() == expected
    wrong = connection.execute(
        "WITH moved(id, amount) AS ("
        " SELECT payer, -amount FROM transfer UNION ALL SELECT payee, amount FROM transfer),"
        " net(id, amount) AS (SELECT id, sum(amount) FROM moved GROUP BY id)"
        "SELECT account.id, balance, amount FROM account LEFT JOIN net USING(id)"
        " WHERE balance != ? + ifnull(amount, 0)",
        (OPENING,),
    ).fetchall()
    assert not wrong, f"accounts that disagree with the journal: {wrong}"
    ((count, refs),) = connection.execute("SELECT count(*), count(DISTINCT ref) FROM transfer")
    assert count == refs, "a transfer was journalled twice"
    return count


def journal(connection: apsw.Connection) -> list[str]:
    """Return the refs of all transfers in the order in which they were made."""
    return [ref for (ref,) in connection.execute("SELECT ref FROM transfer ORDER BY id")]


def is_sound(connection: apsw.Connection) -> bool:
    """Tell whether SQLite's own check of the whole database finds nothing."""
    return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
