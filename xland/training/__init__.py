"""Learning: configuration, material, objective, loop."""
