"""The user's source folder: listings, imported codes, verdicts, groups and the catalogue."""
