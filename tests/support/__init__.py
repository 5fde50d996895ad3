"""Helpers that several parts of the test suite share."""
