"""Choosing: every search takes a table and returns a frontier or a result."""
