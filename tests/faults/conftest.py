"""The store of the integration tests."""

from tests.integration.conftest import radosgw

__all__ = ["radosgw"]
