"""The injuries, one file for each thing that is hurt; each file lists its own as INJURIES."""
