"""Source folder of the user: listing, imported codes, verdicts, groups and the catalogue."""
