"""What the writer of stores is made of: blocks, journal, locks, segments of rollouts; used by :mod:`xland.store`."""
