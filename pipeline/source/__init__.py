"""The user's folder: its listing, imported codes, verdicts, groups and the catalogue."""
