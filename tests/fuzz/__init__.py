"""Coverage-guided fuzzing with atheris: `make fuzz`. One file is one target, `engine` runs it."""
