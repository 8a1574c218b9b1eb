"""Who sends when, and on how much of the carrier; one file per algorithm."""
