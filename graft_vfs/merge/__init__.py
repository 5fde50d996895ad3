"""Row-level three-way merge of three snapshots of a database."""
