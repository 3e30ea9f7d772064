"""Guards of a run: start audit, stability of each update, output collapse."""
