"""Random SQL over a few fixed names, so that statements meet: tables, indexes, triggers, views.

Every table has columns a, b and c, whatever its shape. Most statements succeed in a database that
others have filled, many fail half-way, and some name things that do not exist. Nothing here depends
on time or chance: two SQLite libraries with the same history give the same answer.
"""

from __future__ import annotations

from hypothesis import strategies as st

SHAPES = (
    "TABLE {t}(a INTEGER PRIMARY KEY, b TEXT UNIQUE, c BLOB)",
    "TABLE {t}(a INTEGER PRIMARY KEY AUTOINCREMENT, b TEXT, c BLOB CHECK(length(c) < 3000))",
    "TABLE {t}(a, b NOT NULL, c DEFAULT 'none', UNIQUE(a, b))",
    "TABLE {t}(a TEXT, b INT, c BLOB, PRIMARY KEY(a, b)) WITHOUT ROWID",
    "TABLE {t}(a INTEGER PRIMARY KEY, b REFERENCES t0(a) ON DELETE CASCADE, c)",
    "TABLE {t}(a INT PRIMARY KEY ON CONFLICT REPLACE, b, c, d AS (b || '+') STORED)",
    "TABLE {t} AS SELECT a, b, c FROM {u}",
    "TABLE IF NOT EXISTS {t}(a, b, c)",
)
FAILURES = ("ABORT", "ROLLBACK", "FAIL")
POLICIES = (*FAILURES, "IGNORE", "REPLACE")
KEYS = ("i", "i % 9", "-i", "NULL", "i * 3")
TEXTS = ("'b' || i", "i % 5", "iif(i % 17 = 13, NULL, 'n' || i)", "NULL", "'same'")
BODIES = ("zeroblob(i * 37 % {size})", "printf('%.*c', i % {size}, 'x')", "NULL", "i")
CONDITIONS = (
    "1",
    "a % 3 = 1",
    "b IS NULL",
    "length(c) > 200",
    "a BETWEEN {n} AND {n} + 40",
    "b = 'b{n}'",
    "a IN (SELECT a FROM {u} ORDER BY a LIMIT 5)",
)
CHANGES = ("a = a + {n}", "b = 'u' || a", "b = 'same'", "c = zeroblob({size})", "c = c || 'x'")

tables = st.sampled_from(("t0", "t1", "t2"))
numbers = st.integers(0, 60)
sizes = st.sampled_from((1, 90, 1000, 5000))


def one(*templates: str) -> st.SearchStrategy[str]:
    """Return one of the templates with its names and numbers filled in."""
    return st.builds(
        _filled,
        st.sampled_from(templates),
        t=tables,
        u=tables,
        n=numbers,
        m=st.integers(1, 80),
        i=st.integers(0, 2),
        size=sizes,
        failure=st.sampled_from(FAILURES),
        policy=st.sampled_from(POLICIES),
        condition=st.sampled_from(CONDITIONS),
        change=st.sampled_from(CHANGES),
        key=st.sampled_from(KEYS),
        text=st.sampled_from(TEXTS),
        body=st.sampled_from(BODIES),
    )


def _filled(template: str, **names: object) -> str:
    """Fill in twice: what is filled in may have names of its own."""
    return template.format(**names).format(**names)


_MANY = (
    "WITH RECURSIVE r(i) AS (VALUES({n}) UNION ALL SELECT i + 1 FROM r LIMIT {m}) "
    "SELECT {key}, {text}, {body} FROM r"
)

WRITES = (
    f"INSERT INTO {{t}}(a, b, c) {_MANY}",
    f"INSERT OR {{policy}} INTO {{t}}(a, b, c) {_MANY}",
    f"INSERT INTO {{t}}(a, b, c) {_MANY} RETURNING a, length(c)",
    "INSERT INTO {t}(a, b, c) SELECT a + 1000, b || '!', c FROM {u} WHERE {condition}",
    (
        "INSERT INTO {t}(a, b, c) VALUES({n}, 'b{m}', zeroblob({size})) "
        "ON CONFLICT DO UPDATE SET c = 'again'"
    ),
    "REPLACE INTO {t}(a, b, c) VALUES({n}, 'b{m}', NULL), ({m}, 'b{n}', 7)",
    "UPDATE {t} SET {change} WHERE {condition}",
    "UPDATE OR {policy} {t} SET {change} WHERE {condition}",
    "UPDATE {t} SET {change} WHERE {condition} RETURNING a",
    "DELETE FROM {t} WHERE {condition}",
    "DELETE FROM {t}",
)

DEFINITIONS = (
    *(f"CREATE {shape}" for shape in SHAPES),
    "CREATE TEMP TABLE {t}(a INTEGER PRIMARY KEY, b, c)",
    "DROP TABLE {t}",
    "DROP TABLE IF EXISTS {t}",
    "ALTER TABLE {t} ADD COLUMN e{n} DEFAULT 5",
    "ALTER TABLE {t} RENAME TO t3",
    "ALTER TABLE t3 RENAME TO {t}",
    "ALTER TABLE {t} RENAME COLUMN c TO cc",
    "ALTER TABLE {t} RENAME COLUMN cc TO c",
    "CREATE INDEX i{i} ON {t}(b, a)",
    "CREATE UNIQUE INDEX i{i} ON {t}(b)",
    "CREATE INDEX i{i} ON {t}(length(c)) WHERE b IS NOT NULL",
    "DROP INDEX i{i}",
    "REINDEX",
    "ANALYZE",
    "CREATE TRIGGER g{i} AFTER INSERT ON {t} BEGIN DELETE FROM {u} WHERE a = new.a + 1; END",
    (
        "CREATE TRIGGER g{i} BEFORE UPDATE ON {t} WHEN new.a % 7 = 5 "
        "BEGIN SELECT RAISE({failure}, 'seven'); END"
    ),
    (
        "CREATE TRIGGER g{i} AFTER DELETE ON {t} "
        "BEGIN INSERT OR IGNORE INTO {u}(a, b, c) VALUES(old.a + 500, 'gone', old.c); END"
    ),
    "CREATE TEMP TRIGGER h{i} AFTER INSERT ON {t} BEGIN UPDATE {u} SET c = 1; END",
    "DROP TRIGGER g{i}",
    "CREATE VIEW v{i} AS SELECT a, b FROM {t} WHERE {condition}",
    "DROP VIEW v{i}",
)

TRANSACTIONS = (
    "BEGIN",
    "BEGIN IMMEDIATE",
    "BEGIN EXCLUSIVE",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s0",
    "SAVEPOINT s{i}",
    "ROLLBACK TO s0",
    "ROLLBACK TO s{i}",
    "RELEASE s0",
    "RELEASE s{i}",
)

SETTINGS = (
    "PRAGMA user_version = {n}",
    "PRAGMA application_id = {n}",
    "PRAGMA auto_vacuum = {i}",
    "PRAGMA incremental_vacuum({n})",
    "PRAGMA cache_size = {i}",
    "PRAGMA cache_size = 2000",
    "PRAGMA cache_spill = {i}",
    "PRAGMA secure_delete = {i}",
    "PRAGMA temp_store = {i}",
    "PRAGMA foreign_keys = {i}",
    "PRAGMA defer_foreign_keys = {i}",
    "PRAGMA recursive_triggers = {i}",
    "PRAGMA synchronous = {i}",
    "PRAGMA shrink_memory",
    "PRAGMA max_page_count = {n}00",
    "PRAGMA max_page_count = 1000000",
    "VACUUM",
    "VACUUM",
)

QUERIES = (
    "SELECT * FROM {t} ORDER BY 1, 2, 3",
    "SELECT count(*), sum(length(c)), min(b), max(a) FROM {t} WHERE {condition}",
    "SELECT {t}.a, {u}.b FROM {t} JOIN {u} USING (a) WHERE {t}.b IS NOT NULL",
    "SELECT * FROM v{i}",
    "SELECT b, count(*) FROM {t} GROUP BY b",
    "PRAGMA integrity_check",
    "PRAGMA foreign_key_check",
    "PRAGMA user_version",
    "PRAGMA schema_version",
    "PRAGMA page_count",
    "PRAGMA freelist_count",
    "PRAGMA auto_vacuum",
    "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2",
)

changing = one(*WRITES, *WRITES, *WRITES, *TRANSACTIONS, *TRANSACTIONS, *SETTINGS)
any_kind = one(*QUERIES, *DEFINITIONS, *TRANSACTIONS, *WRITES)
alone = one(
    "PRAGMA journal_mode = delete",
    "PRAGMA journal_mode = truncate",
    "PRAGMA journal_mode = persist",
    "PRAGMA journal_mode = memory",
    "PRAGMA locking_mode = exclusive",
    "PRAGMA locking_mode = normal",
)
"""Settings that stock SQLite treats otherwise in WAL mode, so only for one connection."""
