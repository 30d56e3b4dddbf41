"""Maps drawn from class probabilities, with the grain of observed land."""
