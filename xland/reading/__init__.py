"""Variables that come from outside: what their values may be, and the errors that name them."""
