"""Composes the sample music: scores from harmony, melody, bass and drums; sound from scores."""
