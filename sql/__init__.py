"""Schema of our tables and its migrations."""
