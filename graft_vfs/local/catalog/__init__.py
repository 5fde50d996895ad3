"""Floor 2: the catalog, a SQLite database of tags, volumes, branches and known commits.

    catalog      the questions and changes that the engine needs, each one transaction
    file         opening, upgrading and verifying the file
    rows         rows as records
    descriptor   a copy of what a volume needs, beside its branch file, for a catalog that was lost

The catalog says which branch is current. It never holds the only copy of a commit.
"""
