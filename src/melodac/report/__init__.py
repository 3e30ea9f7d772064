"""What a person looks at: the listening page and its pictures."""
