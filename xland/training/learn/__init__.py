"""How a network learns: steps, objective, validation and state."""
