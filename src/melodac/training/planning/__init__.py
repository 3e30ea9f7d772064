"""Planning of a run before its first update: memory, disk, hours, music per parameter."""
