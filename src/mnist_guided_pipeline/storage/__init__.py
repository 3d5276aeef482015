"""Whole or not at all, on disk and on the Hub."""
