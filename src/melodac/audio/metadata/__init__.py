"""Metadata of tracks: tables, side-cars and embedded tags, merged, filtered and used."""
