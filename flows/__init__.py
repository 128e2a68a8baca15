"""Prefect flows: the only package that may import prefect. Empty so far: `segment` needs no scheduler."""
