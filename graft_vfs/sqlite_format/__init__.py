"""Floor 1: the bytes of SQLite's database file; see https://www.sqlite.org/fileformat2.html.

    header   page 1: the offsets of its fields, and which fields are not content
    btree    pages of b-trees: kinds, children, keys

Bytes in, values out: it reads no files and is independent of volumes. Every offset in page 1 that
the package uses has a name here; no other module contains one as a number. Malformed bytes raise;
nothing is guessed.
"""
