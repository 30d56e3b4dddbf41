"""Campaigns against the promises: seeded generators of bad input, damaged stores, hostile files and killed runs."""
