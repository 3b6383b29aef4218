"""A cascade behind HTTP."""
