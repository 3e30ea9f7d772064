"""What was computed before, found by what it was made of: examinations, audio, codes."""
