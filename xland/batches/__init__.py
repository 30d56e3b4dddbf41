"""Which places and patches a model learns from, and how they reach torch."""
