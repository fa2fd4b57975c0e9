"""Models: parts put together, and their files."""
