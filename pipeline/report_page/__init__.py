"""The page of a run: one HTML file that needs nothing else, made from what the table holds of it."""
