"""Floor 1: the bytes of SQLite's database file; see https://www.sqlite.org/fileformat2.html.

    header   page 1: where its fields are, and which of them are not content
    btree    pages of b-trees: kinds, children, keys

Bytes in, values out: it imports nothing of the package, reads no file and knows no volume. Every
offset in page 1 that the package uses has its name here, so that no other module has one as a
number. What is malformed raises; nothing is guessed.
"""
