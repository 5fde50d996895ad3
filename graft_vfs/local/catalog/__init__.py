"""Floor 2: the catalog, a SQLite database of tags, volumes, branches and known commits.

    catalog      the queries and changes that the engine needs, each one transaction
    file         opening, upgrading and verifying the file
    rows         rows as records
    descriptor   a copy of a volume's facts beside its branch file, in case the catalog is lost

The catalog determines which branch is current. It never has the only copy of a commit.
"""
