"""Publishing stores in a catalog."""
