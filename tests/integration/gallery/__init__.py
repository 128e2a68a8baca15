"""The gallery of `masklake view` in a browser."""
