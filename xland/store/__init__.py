"""Stores: writing lazy maps so that nothing is lost, and reading only what is whole."""
