"""From coarse fractions to fine maps: windows, blocks, lazy arrays."""
