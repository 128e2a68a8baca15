"""What names one row in an address: image, run and recipe."""

from typing import NamedTuple, Self

from pipeline.errors import ConfigError


class Key(NamedTuple):
    """One row of the table."""

    image_id: str
    run_id: str
    recipe: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the key that a text stands for. Raises ConfigError if it is none."""
        image_id, _, rest = text.partition("~")
        run_id, found, recipe = rest.rpartition("~")
        if not found:
            raise ConfigError(f"a key is IMAGE_ID~RUN_ID~RECIPE, got {text[:100]!r}")
        return cls(image_id, run_id, recipe)

    def __str__(self) -> str:
        return "~".join(self)
