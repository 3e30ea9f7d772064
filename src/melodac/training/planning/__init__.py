"""What a run will do and take, said before its first update: schedules, memory, disk, hours."""
