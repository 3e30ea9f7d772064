"""What watches over a run: the start audit, stability of each update, output collapse."""
