"""The gallery: a small web application over a table, for this machine alone."""
