"""Tests of the VFS: what SQLite sees."""
