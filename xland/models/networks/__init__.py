"""The networks of the models."""
