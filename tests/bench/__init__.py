"""The figures of the main story, measured on the rig: counts before times."""
